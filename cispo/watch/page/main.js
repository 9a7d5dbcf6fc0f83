// The page's frame: which view is shown, and looking for news every few seconds.

import { showCurves } from "./curves.js";
import { ask, el, hideTip } from "./dom.js";
import { showLanes } from "./lanes.js";
import { showRollouts } from "./rollouts.js";
import { showRollout } from "./tokens.js";

const PAUSE_MS = 2000;
const view = document.getElementById("view");

let run = null;
let turn = 0;

async function show() {
  turn += 1;
  const mine = turn;
  const isCurrent = () => mine === turn;
  const [name, ...rest] = location.hash.slice(1).split("/");
  hideTip();
  for (const link of document.querySelectorAll("nav a")) {
    link.classList.toggle("on", link.dataset.view === (name === "rollout" ? "rollouts" : name || "curves"));
  }
  try {
    if (name === "lanes") await showLanes(view, run, isCurrent);
    else if (name === "rollouts") await showRollouts(view, run, isCurrent);
    else if (name === "rollout") await showRollout(view, rest[0], rest[1], isCurrent);
    else await showCurves(view, run, isCurrent);
  } catch (error) {
    if (isCurrent()) view.replaceChildren(el("p", { className: "wrong" }, `${error.message}`));
  }
}

function showState() {
  const { health } = run;
  document.title = `${health.is_healthy ? "✓" : "!"} ${run.name}`;
  document.getElementById("name").textContent = run.name;
  const state = document.getElementById("state");
  const step = run.last_step ?? 0;
  state.textContent = `${run.is_over ? "ended" : "live"} · iteration ${step}${run.iterations ? ` of ${run.iterations}` : ""}`;
  state.classList.toggle("live", !run.is_over);
  const box = document.getElementById("health");
  const kind = run.last_step === null ? "starting" : health.is_healthy ? "healthy" : "look";
  box.className = `health ${kind}`;
  const others = health.findings.slice(1).map((f) => el("li", {}, el("b", {}, f.about), `: ${f.why}`));
  box.replaceChildren(
    el("b", {}, health.headline),
    others.length ? el("ul", {}, others) : "",
    health.notes.length ? el("div", { className: "note" }, `Also: ${health.notes.join("; ")}.`) : "",
  );
}

async function look() {
  let pause = PAUSE_MS;
  try {
    const before = run;
    run = await ask("run");
    showState();
    const isNew = !before || before.revision !== run.revision;
    const isIndexing = run.rollouts.num_waiting_files > 0;
    const isReading = location.hash.startsWith("#rollout");
    if (!before || (isNew && !isReading)) await show();
    else if (isReading && before.rollouts.num === 0 && run.rollouts.num > 0) await show();
    if (isIndexing) pause = 500;
  } catch (error) {
    const state = document.getElementById("state");
    state.textContent = "no answer: python -m launch.watch has ended";
    state.classList.remove("live");
  }
  setTimeout(look, pause);
}

addEventListener("hashchange", () => { if (run) show(); });
look();
