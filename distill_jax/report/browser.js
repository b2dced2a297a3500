"use strict";
// The browser of questions. Texts reach the page through textContent only.
(() => {
  const PAGE = 40, CACHED = 8;
  const RIGHT = 2, CUT = 4, UNREAD = 8;
  const at = (id) => document.getElementById(id);
  const places = JSON.parse(at("places").textContent);
  const partSize = Number(at("places").dataset.part);
  const split = at("split"), filter = at("filter"), place = at("place"), search = at("search");
  const list = at("list"), status = at("status"), before = at("before"), after = at("after");
  const cache = new Map();
  let index = [], found = [], start = 0, current = 0;

  function node(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  async function inflate(id) {
    const raw = atob(at(id).textContent);
    const bytes = Uint8Array.from(raw, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  }

  async function part(number) {
    if (!cache.has(number)) {
      cache.set(number, await inflate("part-" + number));
      if (cache.size > CACHED) cache.delete(cache.keys().next().value);
    }
    return cache.get(number);
  }

  const entry = async (n) => (await part(Math.floor(n / partSize)))[n % partSize];

  // Places of the outcome that a filter looks at: those of its own kind, in order.
  function steps(codes) {
    const seen = [];
    for (let n = 0; n < codes.length; n++) {
      const code = parseInt(codes[n], 16);
      if (code) seen.push([n, code]);
    }
    return seen;
  }

  function matches(codes, wanted, where) {
    const seen = steps(codes);
    const here = where < 0 ? seen : seen.filter(([n]) => n === where);
    if (wanted === "all") return where < 0 || here.length > 0;
    if (wanted === "wrong") return here.some(([, code]) => !(code & RIGHT));
    if (wanted === "right") return here.some(([, code]) => code & RIGHT);
    if (wanted === "cut") return here.some(([, code]) => code & CUT);
    if (wanted === "unread") return here.some(([, code]) => code & UNREAD);
    if (wanted === "never") return seen.length > 0 && here.length > 0 && seen.every(([, code]) => !(code & RIGHT));
    const gain = wanted === "gained";
    for (let k = 0; k + 1 < seen.length; k++) {
      if (where >= 0 && seen[k][0] !== where) continue;
      const was = Boolean(seen[k][1] & RIGHT), is = Boolean(seen[k + 1][1] & RIGHT);
      if (was !== is && is === gain) return true;
    }
    return false;
  }

  async function select() {
    const run = ++current;
    const wanted = filter.value, where = Number(place.value), text = search.value.trim().toLowerCase();
    const fitting = [];
    for (let n = 0; n < index.length; n++) {
      const [, own, codes] = index[n];
      if ((split.value === "" || split.value === own) && matches(codes, wanted, where)) fitting.push(n);
    }
    start = 0;
    if (!text) {
      found = fitting;
      return show(run);
    }
    const hits = [];
    for (let k = 0; k < fitting.length; k++) {
      const asked = await entry(fitting[k]);
      if (run !== current) return;
      const texts = [asked[0], asked[2], asked[3], ...asked[4].map((event) => event[2])];
      if (texts.some((t) => t.toLowerCase().includes(text))) hits.push(fitting[k]);
      if (k % partSize === 0) status.textContent = "searching: " + k + " of " + fitting.length + " questions, " + hits.length + " found";
    }
    found = hits;
    return show(run);
  }

  function outcome(codes) {
    const shown = node("span", "outcome");
    for (const [n, code] of steps(codes)) {
      const right = Boolean(code & RIGHT);
      const mark = node("span", right ? "yes" : "no", right ? "✓" : "✗");
      mark.title = places[n] + ": " + (right ? "right" : "wrong") + (code & CUT ? ", cut" : "") + (code & UNREAD ? ", unreadable" : "");
      shown.append(mark);
    }
    return shown;
  }

  function events(asked) {
    const box = node("div", "events");
    const add = (kind, label, text) => {
      const block = node("div", "event " + kind);
      block.append(node("div", "label", label), node("div", "text", text));
      box.append(block);
    };
    add("question", "question", asked[2]);
    add("question", "gold", asked[3]);
    for (const [kind, label, text] of asked[4]) add(["right", "wrong", "critique", "rationale"].includes(kind) ? kind : "question", label, text);
    return box;
  }

  function item(n, asked) {
    const box = node("div", "item"), head = node("button");
    head.type = "button";
    head.setAttribute("aria-expanded", "false");
    head.append(outcome(index[n][2]), node("span", "first", asked[2].split("\n")[0].slice(0, 300)), node("span"), node("span", "id", asked[0]));
    let opened = null;
    head.addEventListener("click", () => {
      if (opened) { opened.remove(); opened = null; } else { opened = events(asked); box.append(opened); }
      head.setAttribute("aria-expanded", String(Boolean(opened)));
    });
    box.append(head);
    return box;
  }

  async function show(run) {
    const page = found.slice(start, start + PAGE), items = [];
    for (const n of page) items.push(item(n, await entry(n)));
    if (run !== current) return;
    list.replaceChildren(...items);
    const end = start + page.length;
    status.textContent = found.length ? (start + 1) + "–" + end + " of " + found.length + " questions" : "no question matches";
    before.disabled = start === 0;
    after.disabled = end >= found.length;
  }

  function turn(by) {
    start = Math.max(0, start + by);
    show(++current);
    at("mistakes").scrollIntoView({ block: "start" });
  }

  let timer = 0;
  search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(select, 250); });
  for (const control of [split, filter, place]) control.addEventListener("change", select);
  before.addEventListener("click", () => turn(-PAGE));
  after.addEventListener("click", () => turn(PAGE));

  if (typeof DecompressionStream === "undefined") {
    status.textContent = "This browser cannot inflate the texts (it lacks DecompressionStream).";
    return;
  }
  inflate("index").then((read) => { index = read; at("controls").hidden = false; return select(); })
    .catch((error) => { status.textContent = "The texts of this page are damaged: " + error.message; });
})();
