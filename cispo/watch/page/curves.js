// The panels of curves; pointing at one shows the values of that iteration in all of them.

import { ask, el, number, svg, ticks } from "./dom.js";

const COLOURS = ["#2563eb", "#e4572e", "#159a72", "#b4540a", "#7c4dbd", "#c2255c", "#0e8fb3", "#6b7a0f"];
const WIDTH = 400;
const HEIGHT = 170;
const LEFT = 46;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;

let drawn = [];

export async function showCurves(view, run, isCurrent) {
  const { panels } = await ask("curves");
  if (!isCurrent()) return;
  drawn = panels.map((panel) => new Picture(panel));
  const pointed = new Set(run.health.findings.map((finding) => finding.metric));
  for (const picture of drawn) {
    const isPointed = picture.panel.lines.some((line) => pointed.has(line.metric));
    picture.box.classList.toggle("pointed", isPointed);
  }
  view.replaceChildren(
    scaling(run.scaling),
    el("div", { className: "panels" }, drawn.map((picture) => picture.box)),
  );
}

function scaling(found) {
  if (!found) return "";
  const what = found.metric === "accuracy/mean" ? "accuracy in training" : "held-out accuracy";
  if (found.reason) {
    const text = `Where ${what} will level off cannot be said: ${found.reason}.`;
    return el("p", { className: "muted small" }, text);
  }
  const text =
    `If nothing changes, ${what} levels off at ${number(found.asymptote, "%")} ` +
    `(95 %: ${number(found.low, "%")} to ${number(found.high, "%")}), by ScaleRL's sigmoid.`;
  return el("p", { className: "muted small" }, text);
}

class Picture {
  constructor(panel) {
    this.panel = panel;
    this.output = el("output", { className: "small muted" });
    this.items = panel.lines.map(() => el("span"));
    this.cross = svg("line", { class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    const legend = panel.lines.map((line, index) => {
      const mark = el("i");
      mark.style.background = COLOURS[index % COLOURS.length];
      return el("li", {}, mark, `${line.name} `, this.items[index]);
    });
    this.box = el(
      "section",
      { className: "panel" },
      el("h3", {}, panel.title, el("span", { className: "muted small" }, panel.unit === "%" ? "" : panel.unit), this.output),
      el("p", {}, panel.meaning),
      panel.lines.length ? this.draw() : el("p", { className: "muted" }, "no data yet"),
      el("ul", { className: "legend" }, legend),
    );
    this.point(null);
  }

  draw() {
    const { lines, unit } = this.panel;
    const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
    const steps = lines.flatMap((line) => line.steps);
    this.first = Math.min(...steps);
    this.last = Math.max(...steps, this.first + 1);
    let low = Math.min(...values, unit === "%" || Math.min(...values) >= 0 ? 0 : Infinity);
    let high = Math.max(...values, low === 0 && values.every((value) => value === 0) ? 1 : low + 1e-9);
    high += 0.06 * (high - low);
    const y = (value) => TOP + ((high - value) / (high - low)) * (HEIGHT - TOP - BOTTOM);
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    picture.setAttribute("aria-label", this.panel.title);
    for (const tick of ticks(low, high, 4)) {
      picture.append(
        svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
        label(number(tick, unit), LEFT - 5, y(tick) + 4, "end"),
      );
    }
    for (const tick of ticks(this.first, this.last, 6)) {
      if (Number.isInteger(tick)) picture.append(label(`${tick}`, this.x(tick), HEIGHT - 5, "middle"));
    }
    for (const [index, line] of [...lines.entries()].reverse()) {
      const colour = COLOURS[index % COLOURS.length];
      const width = index === 0 && lines.length > 2 ? 3.2 : 2;
      picture.append(svg("path", { class: "curve", d: this.path(line, y), stroke: colour, "stroke-width": width }));
      if (line.steps.length < 30) {
        line.steps.forEach((step, i) => {
          if (line.values[i] === null) return;
          picture.append(svg("circle", { cx: this.x(step), cy: y(line.values[i]), r: 2.4, fill: colour }));
        });
      }
    }
    picture.append(this.cross);
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const share = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
      const step = this.first + share * (this.last - this.first);
      drawn.forEach((other) => other.point(Math.round(step)));
    });
    picture.addEventListener("pointerleave", () => drawn.forEach((other) => other.point(null)));
    return picture;
  }

  path(line, y) {
    let command = "M";
    let text = "";
    line.steps.forEach((step, i) => {
      if (line.values[i] === null) {
        command = "M";
        return;
      }
      text += `${command}${this.x(step).toFixed(1)} ${y(line.values[i]).toFixed(1)}`;
      command = "L";
    });
    return text;
  }

  x(step) {
    return LEFT + ((step - this.first) / (this.last - this.first)) * (WIDTH - LEFT - RIGHT);
  }

  point(step) {
    const isShown = step !== null && step >= this.first && step <= this.last;
    this.cross.setAttribute("visibility", isShown ? "visible" : "hidden");
    if (isShown) {
      this.cross.setAttribute("x1", this.x(step));
      this.cross.setAttribute("x2", this.x(step));
    }
    this.output.textContent = isShown ? `iteration ${step}` : "";
    this.panel.lines.forEach((line, index) => {
      let at = line.steps.length - 1;
      if (isShown) while (at > 0 && line.steps[at] > step) at -= 1;
      this.items[index].textContent = number(line.values[at], this.panel.unit);
    });
  }
}

function label(text, x, y, anchor) {
  return svg("text", { x, y, "text-anchor": anchor }, text);
}
