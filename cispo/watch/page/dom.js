// Builds the page from elements and text alone: nothing that a model wrote is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const tip = () => document.getElementById("tip");

export function showTip(event, text) {
  const box = tip();
  box.textContent = text;
  box.hidden = false;
  const { innerWidth, innerHeight } = window;
  const left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8);
  const below = event.clientY + 18;
  const top = below + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 10 : below;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${Math.max(4, top)}px`;
}

export function hideTip() {
  tip().hidden = true;
}

export async function ask(path, values = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    if (value !== "" && value !== null && value !== undefined) query.set(name, value);
  }
  const response = await fetch(`/api/${path}?${query}`);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

export function number(value, unit = "") {
  if (value === null || value === undefined) return "–";
  if (unit === "%") return `${(100 * value).toFixed(value !== 0 && Math.abs(value) < 0.1 ? 1 : 0)} %`;
  const size = Math.abs(value);
  if (size !== 0 && size < 0.001) return value.toExponential(1);
  if (size >= 10000) return Math.round(value).toLocaleString("en");
  return Number(value.toPrecision(size >= 100 ? 4 : 3)).toString();
}

export function seconds(value) {
  if (value === 0) return "0 s";
  if (value < 1) return `${Math.round(1000 * value)} ms`;
  if (value < 120 && Number.isInteger(value)) return `${value} s`;
  if (value < 120) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  const minutes = Math.floor(value / 60);
  const rest = `${Math.round(value % 60)}`.padStart(2, "0");
  if (minutes < 60) return `${minutes}:${rest} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i += 1) {
    found.push(i * step);
  }
  return found;
}
