"use strict";
// Everything that comes from the server is put into the page as text, a property or an embedded image, never as HTML.
const byId = id => document.getElementById(id);
const ENDED = ["done", "stopped", "failed"];
let job = null; // the id of the job that waits or runs
let source = null; // its stream
let shown = null; // the run whose images can be chosen: {title, images, probs, run, summary, download}
let earlier = []; // runs before it, for the button Back
let chosen = []; // chains, in the order of the clicks

function number(id) {
  return Number(byId(id).value);
}

function say(text) {
  byId("status").textContent = text;
}

function complain(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

function buttons() {
  const busy = job !== null;
  byId("go").disabled = busy;
  byId("stop").disabled = !busy;
  byId("more").disabled = busy || !shown || chosen.length !== 1;
  byId("between").disabled = busy || !shown || chosen.length !== 2;
  byId("back").disabled = busy || earlier.length === 0;
}

function choose(chain) {
  chosen = chosen.includes(chain) ? chosen.filter(each => each !== chain) : [...chosen, chain].slice(-2);
  for (const button of byId("tiles").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(chosen.includes(Number(button.dataset.chain))));
  }
  buttons();
}

function tile(chain) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.chain = chain;
  button.append(document.createElement("img"), document.createElement("span"));
  button.addEventListener("click", () => {
    choose(chain);
    play(item.querySelector("audio"));
  });
  const audio = document.createElement("audio");
  audio.controls = true;
  audio.preload = "none";
  item.append(button, audio, document.createElement("a"));
  return item;
}

// From its start; the others fall silent.
function play(audio) {
  if (audio.hidden) return;
  for (const other of byId("tiles").querySelectorAll("audio")) other.pause();
  audio.currentTime = 0;
  audio.play().catch(error => {
    if (error.name !== "AbortError") complain(error.message); // such as a file that is not kept any longer, but no next click
  });
}

// The file of a draw, once the run has ended: a sound is played, a clip takes the place of its still.
function showFile(item, still, chain, view) {
  const [image, audio, link] = ["img", "audio", "a"].map(name => item.querySelector(name));
  const file = view.files ? view.files[chain] : "";
  const use = file ? view.medium.use : "";
  const shown = use === "show" ? file : still;
  image.onerror = shown === still ? null : () => {
    image.onerror = null;
    image.src = still;
  };
  if (image.getAttribute("src") !== shown) image.src = shown;
  image.alt = use === "play" ? `chain ${chain}, as a spectrogram` : `chain ${chain}`;
  audio.hidden = use !== "play";
  audio.setAttribute("aria-label", `${view.title}, chain ${chain}`);
  if (use !== "play") {
    audio.pause(); // it would go on without its file, and without a button to stop it
    audio.removeAttribute("src");
  } else if (audio.getAttribute("src") !== file) audio.src = file;
  link.hidden = !file;
  if (!file) return;
  link.href = file;
  link.download = `${view.medium.noun}-${chain}${view.medium.ending}`;
  link.textContent = `Download ${view.medium.ending.slice(1).toUpperCase()}`;
}

function showTiles(view, canChoose) {
  const tiles = byId("tiles");
  while (tiles.children.length > view.images.length) tiles.lastElementChild.remove();
  while (tiles.children.length < view.images.length) tiles.append(tile(tiles.children.length));
  view.images.forEach((url, chain) => {
    const button = tiles.children[chain].firstElementChild;
    const prob = view.probs[chain];
    button.disabled = !canChoose;
    button.setAttribute("aria-pressed", String(canChoose && chosen.includes(chain)));
    showFile(tiles.children[chain], url, chain, view);
    button.lastElementChild.textContent = `p ${prob === null ? "unknown" : prob.toFixed(2)}, chain ${chain}`;
  });
  byId("title").textContent = view.title || "";
  byId("summary").textContent = view.summary || "";
  byId("summary").hidden = !view.summary;
  byId("download").hidden = !view.download;
  if (view.download) byId("download").href = view.download;
  byId("images").hidden = false;
}

function showFilm(view) {
  byId("film-title").textContent = view.title;
  byId("film-image").src = view.film;
  byId("film-image").alt = view.title;
  byId("film-summary").textContent = view.summary;
  byId("film-download").href = view.download;
  byId("film").hidden = false;
}

function take(kind, view) {
  const steps = view.total ? `: ${view.done} of ${view.total} steps` : ": checks the models and compiles";
  const rates = Object.entries(view.measured || {}).map(([name, value]) => `, ${name} ${value}`).join("");
  const later = view.total && view.late ? ". This method shows its images at the end" : "";
  const running = view.state === "running" ? `running${steps}${rates}${later}` : view.state;
  say(view.state === "waiting" ? `waiting, place ${view.place} in the queue` : running);
  byId("progress").hidden = ENDED.includes(view.state);
  byId("progress").value = view.total ? view.done / view.total : 0;
  if (kind !== "morph" && view.images) showTiles(view, Boolean(view.run));
  if (!ENDED.includes(view.state)) return;
  complain(view.error || "");
  if (view.run) {
    if (shown) earlier.push(shown);
    shown = view;
  } else if (view.film) {
    showFilm(view);
  } else if (shown && kind !== "morph") {
    showTiles(shown, true); // the images of before: those of a run without an end cannot be used
  }
  end();
}

function end() {
  if (source) source.close();
  job = source = null;
  byId("progress").hidden = true;
  buttons();
}

async function post(path, body) {
  const reply = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const found = await reply.json();
  if (!reply.ok) throw new Error(found.error);
  return found;
}

async function start(request) {
  job = "";
  complain("");
  say("");
  buttons();
  try {
    job = (await post("jobs", request)).job;
  } catch (error) {
    complain(error.message);
    end();
    return;
  }
  if (request.kind !== "morph") {
    chosen = [];
    byId("film").hidden = true;
  }
  source = new EventSource(`jobs/${job}/events`);
  source.onmessage = event => take(request.kind, JSON.parse(event.data));
  source.onerror = () => {
    if (source && source.readyState === EventSource.CLOSED) { // otherwise the browser tries again
      complain("the server has ended, or does not know this job");
      end();
    }
  };
}

byId("draw").addEventListener("submit", event => {
  event.preventDefault();
  const counts = { num_chains: number("num_chains"), num_results: number("num_results"), seed: number("seed") };
  start({ kind: "sample", label: byId("label").value, kernel: byId("kernel").value, temperature: number("temperature"), ...counts });
});
byId("stop").addEventListener("click", () => {
  if (!job) return;
  byId("stop").disabled = true;
  post(`jobs/${job}/stop`, {}).catch(error => complain(error.message));
});
byId("more").addEventListener("click", () => {
  start({ kind: "vary", run: shown.run, chain: chosen[0], num_images: number("num_chains"), seed: number("seed") });
});
byId("between").addEventListener("click", () => {
  start({ kind: "morph", run: shown.run, first: chosen[0], last: chosen[1] });
});
byId("back").addEventListener("click", () => {
  shown = earlier.pop();
  chosen = [];
  byId("film").hidden = true;
  showTiles(shown, true);
  buttons();
});
// A page that is closed leaves the place in the queue to others.
addEventListener("pagehide", () => {
  if (job) navigator.sendBeacon(`jobs/${job}/stop`);
});
