const find = (id) => document.getElementById(id);
const tiles = find("tiles"), viewer = find("viewer"), frames = find("frames"), play = find("play");
const PAUSE = 500; // milliseconds between two frames of a film
let shown = null, timer = 0;

function stop() {
  clearInterval(timer);
  timer = 0;
  play.textContent = "Play";
  play.setAttribute("aria-pressed", "false");
}

function enlarge(image, draw, prob) {
  find("large").src = image.src;
  find("large").alt = image.alt;
  find("draw").textContent = draw;
  find("prob").textContent = prob;
}

function showFrame(button) {
  for (const other of frames.querySelectorAll("button")) other.setAttribute("aria-current", String(other === button));
  const [draw, prob] = [...button.querySelectorAll("span")].map((span) => span.textContent);
  enlarge(button.querySelector("img"), draw.replace("draw ", ""), prob.replace("p ", ""));
}

function show(tile) {
  stop();
  shown = tile;
  find("viewed").textContent = `Chain ${tile.dataset.chain}`;
  find("chain").textContent = tile.dataset.chain;
  enlarge(tile.querySelector("img"), find("draw").dataset.last, tile.dataset.prob);
  const near = tile.querySelector(".near");
  if (near) find("nearest").replaceChildren(near.cloneNode(true));
  const film = tile.querySelector("template");
  frames.replaceChildren(...(film ? [film.content.cloneNode(true)] : []));
  find("film").hidden = !film;
  find("before").disabled = !tile.previousElementSibling;
  find("after").disabled = !tile.nextElementSibling;
  if (!viewer.open) viewer.showModal();
  if (document.activeElement.disabled || !viewer.contains(document.activeElement)) find("close").focus();
}

function go(tile) {
  if (tile) show(tile);
}

tiles.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) show(button.parentElement);
});
frames.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) {
    stop();
    showFrame(button);
  }
});
play.addEventListener("click", () => {
  if (timer) {
    stop();
    return;
  }
  const buttons = [...frames.querySelectorAll("button")];
  let next = 0;
  const step = () => {
    showFrame(buttons[next]);
    next += 1;
    if (next === buttons.length) stop();
  };
  play.textContent = "Stop";
  play.setAttribute("aria-pressed", "true");
  timer = setInterval(step, PAUSE);
  step();
});
find("before").addEventListener("click", () => go(shown.previousElementSibling));
find("after").addEventListener("click", () => go(shown.nextElementSibling));
find("close").addEventListener("click", () => viewer.close());
document.addEventListener("keydown", (event) => { // of the document: a button that is disabled loses the focus
  if (!viewer.open) return;
  if (event.key === "ArrowLeft") go(shown.previousElementSibling);
  if (event.key === "ArrowRight") go(shown.nextElementSibling);
});
viewer.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close(); // the backdrop
});
viewer.addEventListener("close", () => {
  stop();
  shown.querySelector("button").focus();
});

find("order").addEventListener("change", (event) => {
  const byChain = (a, b) => a.dataset.chain - b.dataset.chain;
  const bestFirst = (a, b) => b.dataset.rank - a.dataset.rank || byChain(a, b);
  tiles.append(...[...tiles.children].sort(event.target.value === "best" ? bestFirst : byChain));
});
