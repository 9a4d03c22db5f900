// Sentences and findings that were clicked.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-sentence], [data-finding]");
  if (button) trigger("chosen", {number: Number(button.dataset.sentence ?? button.dataset.finding)});
});
