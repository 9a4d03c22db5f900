// The choice of a CT: uploads go to this demo's own address for the session, never through gradio.
const find = (id) => element.querySelector("#" + id);
const file = find("ct-file"), phantom = find("ct-phantom"), progress = find("ct-progress");
const drop = element.querySelector(".drop");
let about = {};

function learn() {
  about = props.value || {};
  if (phantom.options.length > 1 || !about.phantoms) return;
  for (const [name, words] of Object.entries(about.phantoms)) {
    phantom.add(new Option(`${name}: ${words}`, name));
  }
}

function header() {
  const said = {};
  for (const name of ["slope", "intercept", "series"]) {
    const text = find("ct-" + name).value.trim();
    if (text) said[name] = text;
  }
  return said;
}

function open(what) { trigger("open_ct", {...what, ...header()}); }

function send(chosen) {
  if (!chosen) return;
  if (!about.upload) return open({error: "The page isn't ready yet; try again."});
  if (chosen.size > about.limit) return open({error: about.refusal});
  const request = new XMLHttpRequest();
  progress.hidden = false;
  progress.value = 0;
  request.upload.onprogress = (event) => { progress.value = event.loaded / (event.total || 1); };
  request.onloadend = () => {
    progress.hidden = true;
    let answer = {};
    try { answer = JSON.parse(request.responseText); } catch { /* no answer of ours */ }
    if (request.status === 200) open({upload: answer.upload, name: chosen.name});
    else open({error: answer.error || "The upload was cut off; try again."});
  };
  request.open("POST", `${about.upload}?name=${encodeURIComponent(chosen.name)}`);
  request.send(chosen);
  phantom.value = "";
}

file.addEventListener("change", () => { send(file.files[0]); file.value = ""; });
phantom.addEventListener("change", () => { if (phantom.value) open({phantom: phantom.value}); });
for (const kind of ["dragenter", "dragover"]) {
  element.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  element.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
element.addEventListener("drop", (event) => send(event.dataTransfer.files[0]));
watch("value", learn);
learn();

// gradio ends its stream of answers when nothing is left to answer. An event that it lets in while the page still reads
// that stream gets no answer: nobody reads on. The next event opens a stream anew, which brings that answer too; so one
// that does nothing follows the end of such a stream.
let joined = 0;  // when the last event was let in
new PerformanceObserver((seen) => {
  for (const {name, startTime, responseEnd} of seen.getEntries()) {
    if (name.includes("/queue/join")) joined = responseEnd;
    if (name.includes("/queue/data") && joined > startTime) setTimeout(() => trigger("follow", {}), 1000);
  }
}).observe({type: "resource"});
