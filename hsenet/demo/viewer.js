// A CT in memory, drawn in three planes. Volume: HU int16, (z, y, x): z to the head, y to the back, x to the left.
const WINDOWS = {lung: [-600, 1500], mediastinum: [40, 400], bone: [400, 1800]};
const DENSER_THAN_AIR = -900;  // HU; lung is about -850
const root = element.querySelector(".viewer");
const strength = root.querySelector(".strength input");
const where = root.querySelector(".where");
const hint = where.textContent;
const planes = {};
let ct = null, map = null, shown = "", shownMap = "", grey = null, at = [0, 0, 0], waiting = 0;

// Plane → the axis that is scrolled, and the axes (z, y, x) of its columns and rows; z is drawn from the head down.
const AXES = {axial: {fixed: 0, column: 2, row: 1}, coronal: {fixed: 1, column: 2, row: 0}, sagittal: {fixed: 2, column: 1, row: 0}};

for (const figure of root.querySelectorAll("figure")) {
  const stage = figure.querySelector(".stage"), canvas = figure.querySelector("canvas");
  planes[figure.dataset.plane] = {
    ...AXES[figure.dataset.plane], figure, stage, canvas,
    pen: canvas.getContext("2d", {alpha: false, willReadFrequently: true}), slider: figure.querySelector("input"),
    number: figure.querySelector("output"), layer: document.createElement("canvas"),
    across: figure.querySelector("i.h"), down: figure.querySelector("i.v"), picture: null,
  };
}

function setWindow(name) {
  const [middle, width] = WINDOWS[name];
  grey = new Uint32Array(65536);
  for (let hu = -32768; hu < 32768; hu++) {
    const share = Math.min(1, Math.max(0, (hu - middle) / width + 0.5));
    grey[hu & 0xffff] = 0xff000000 | (Math.round(255 * share) * 0x010101);
  }
  for (const button of root.querySelectorAll("[data-window]")) {
    button.setAttribute("aria-pressed", String(button.dataset.window === name));
  }
}

// The numbers of a slice of (z, y, x) data, columns by rows, written into `out` through `paint`.
function slice(data, shape, plane, index, out, paint) {
  const step = [shape[1] * shape[2], shape[2], 1];
  const columns = shape[plane.column], rows = shape[plane.row], next = step[plane.column];
  let i = 0;
  for (let r = 0; r < rows; r++) {
    const row = plane.row === 0 ? rows - 1 - r : r;
    let from = index * step[plane.fixed] + row * step[plane.row];
    for (let c = 0; c < columns; c++, from += next) out[i++] = paint[data[from] & 0xffff];
  }
}

const glow = new Uint32Array(256);  // amber, the clearer the higher
for (let v = 0; v < 256; v++) {
  const alpha = Math.round(255 * Math.pow(v / 255, 1.4));
  const green = 120 + Math.round(90 * v / 255);
  glow[v] = (alpha << 24) | (20 << 16) | (green << 8) | 255;
}

function drawMap(plane, index) {
  const columns = map.shape[plane.column], rows = map.shape[plane.row], layer = plane.layer;
  if (layer.width !== columns || layer.height !== rows) { layer.width = columns; layer.height = rows; }
  const pen = layer.getContext("2d"), picture = pen.createImageData(columns, rows);
  const depth = Math.min(map.shape[plane.fixed] - 1, Math.floor((index + 0.5) * map.shape[plane.fixed] / ct.shape[plane.fixed]));
  slice(map.data, map.shape, plane, depth, new Uint32Array(picture.data.buffer), glow);
  pen.putImageData(picture, 0, 0);
  plane.pen.imageSmoothingEnabled = true;
  plane.pen.imageSmoothingQuality = "high";
  plane.pen.globalAlpha = strength.value / 100;
  plane.pen.drawImage(layer, 0, 0, plane.canvas.width, plane.canvas.height);
  plane.pen.globalAlpha = 1;
}

function draw(plane) {
  const index = at[plane.fixed];
  plane.drawn = index;
  slice(ct.data, ct.shape, plane, index, plane.pixels, grey);
  plane.pen.putImageData(plane.picture, 0, 0);
  if (map) drawMap(plane, index);
  plane.slider.value = index;
  plane.number.textContent = `${index + 1} / ${ct.shape[plane.fixed]}`;
}

function cross(plane) {
  const column = (at[plane.column] + 0.5) / ct.shape[plane.column];
  const row = (at[plane.row] + 0.5) / ct.shape[plane.row];
  plane.down.style.transform = `translateX(${100 * column}%)`;
  plane.across.style.transform = `translateY(${100 * (plane.row === 0 ? 1 - row : row)}%)`;
}

function drawAll() {
  waiting = 0;
  if (!ct) return;
  for (const plane of Object.values(planes)) {
    if (plane.drawn !== at[plane.fixed]) draw(plane);
    cross(plane);
  }
}

// Draw before the next frame: what has changed, or everything anew.
function later(anew = false) {
  if (anew) for (const plane of Object.values(planes)) plane.drawn = -1;
  if (!waiting) waiting = requestAnimationFrame(drawAll);
}

function go(axis, index) {
  if (!ct) return;
  at[axis] = Math.min(ct.shape[axis] - 1, Math.max(0, Math.round(index)));
  later();
}

function fit(plane) {
  const columns = ct.shape[plane.column], rows = ct.shape[plane.row];
  plane.canvas.width = columns;
  plane.canvas.height = rows;
  plane.stage.style.aspectRatio = `${columns * ct.spacing[plane.column]} / ${rows * ct.spacing[plane.row]}`;
  plane.picture = plane.pen.createImageData(columns, rows);
  plane.pixels = new Uint32Array(plane.picture.data.buffer);
  plane.slider.max = ct.shape[plane.fixed] - 1;
}

async function bytes(address) {
  const answer = await fetch(address, {cache: "no-store"});
  if (!answer.ok) throw new Error("gone");
  return answer.arrayBuffer();
}

function empty() {
  ct = map = null;
  shown = shownMap = "";
  root.classList.remove("open");
  root.querySelector(".name").textContent = "";
  root.querySelector(".strength").hidden = true;
  delete root.dataset.shape;
  delete root.dataset.map;
  where.textContent = hint;
  for (const plane of Object.values(planes)) {
    plane.canvas.width = plane.canvas.height = 1;
    plane.number.textContent = "";
    plane.slider.max = plane.slider.value = 0;
  }
}

async function openVolume(view) {
  shown = view.volume;
  const data = new Int16Array(await bytes(view.volume));
  if (shown !== view.volume) return;  // another was opened meanwhile
  map = null;
  shownMap = "";
  ct = {data, volume: view.volume, shape: view.shape, spacing: view.spacing};
  at = view.shape.map((n) => n >> 1);
  for (const plane of Object.values(planes)) fit(plane);
  root.querySelector(".name").textContent = view.name;
  root.querySelector(".strength").hidden = true;
  root.dataset.shape = view.shape.join(" ");
  delete root.dataset.map;
  root.classList.add("open");
  where.textContent = hint;
  later(true);
}

// The voxel (z, y, x) of the CT in the middle of a point of the map.
function voxelOf(i) {
  const [nz, ny, nx] = map.shape;
  const point = [Math.floor(i / (ny * nx)), Math.floor(i / nx) % ny, i % nx];
  return point.map((p, axis) => Math.min(ct.shape[axis] - 1, Math.floor((p + 0.5) * ct.shape[axis] / map.shape[axis])));
}

// Is there something denser than air around a voxel? Noise is averaged over its neighbours in the slice.
function inBody([z, y, x]) {
  const [, ny, nx] = ct.shape;
  let sum = 0, count = 0;
  for (let row = Math.max(0, y - 1); row <= Math.min(ny - 1, y + 1); row++) {
    for (let column = Math.max(0, x - 1); column <= Math.min(nx - 1, x + 1); column++, count++) sum += ct.data[(z * ny + row) * nx + column];
  }
  return sum / count > DENSER_THAN_AIR;
}

// Where to go: the highest place of the map in the body, since a slice of air shows nothing; and whether it is higher elsewhere.
function highestPlace() {
  let highest = 0, inside = -1;
  for (let i = 0; i < map.data.length; i++) {
    if (map.data[i] > map.data[highest]) highest = i;
    if ((inside < 0 || map.data[i] > map.data[inside]) && inBody(voxelOf(i))) inside = i;
  }
  return {point: voxelOf(inside < 0 ? highest : inside), outside: inside < 0 || map.data[inside] < map.data[highest]};
}

async function openMap(view) {
  shownMap = view.map.url;
  const data = new Uint8Array(await bytes(view.map.url));
  if (shownMap !== view.map.url || !ct) return;
  map = {data, shape: view.map.shape};
  const {point, outside} = highestPlace();
  at = point;
  root.querySelector(".strength").hidden = false;
  root.dataset.map = view.map.url;
  where.textContent = `Where it looked for: ${view.map.label}${outside ? " (the map is highest outside of the body)" : ""}`;
  later(true);
}

// A map may be asked for while its CT is still on its way: then it is opened after the CT.
async function learn() {
  try {
    if (!props.value || !props.value.volume) return empty();
    if (props.value.volume !== shown) await openVolume(props.value);
    const view = props.value;
    const isOpen = ct !== null && ct.volume === view.volume;
    if (isOpen && view.map && view.map.url !== shownMap) await openMap(view);
  } catch { where.textContent = "This CT can't be shown any more; open it again."; }
}

for (const plane of Object.values(planes)) {
  plane.slider.addEventListener("input", () => go(plane.fixed, Number(plane.slider.value)));
  plane.stage.addEventListener("wheel", (event) => {
    if (!ct) return;
    event.preventDefault();
    go(plane.fixed, at[plane.fixed] + (event.deltaY > 0 ? -1 : 1) * (plane.fixed === 0 ? 1 : -1));
  }, {passive: false});
  plane.stage.addEventListener("keydown", (event) => {
    const steps = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10};
    if (!(event.key in steps)) return;
    event.preventDefault();
    go(plane.fixed, at[plane.fixed] + steps[event.key]);
  });
  plane.stage.addEventListener("click", (event) => {
    if (!ct) return;
    const box = plane.stage.getBoundingClientRect();
    const column = (event.clientX - box.left) / box.width, row = (event.clientY - box.top) / box.height;
    at[plane.column] = Math.min(ct.shape[plane.column] - 1, Math.floor(column * ct.shape[plane.column]));
    go(plane.row, Math.floor((plane.row === 0 ? 1 - row : row) * ct.shape[plane.row]));
  });
}
root.querySelector(".windows").addEventListener("click", (event) => {
  const button = event.target.closest("[data-window]");
  if (button) { setWindow(button.dataset.window); later(true); }
});
strength.addEventListener("input", () => later(true));
setWindow("lung");
watch("value", learn);
learn();
