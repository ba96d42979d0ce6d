import { ask, Refused, useKey } from "./ask.js";
import { picture, show } from "./preview.js";

const PREVIEW_PX = 960, THUMB_PX = 160, AT_ONCE = 3, MOST_PICTURES = 500, TOP = 5;
const NARROW = "\u202f";
const $ = (id) => document.getElementById(id);
const items = [];
const latencies = [];
let selected = null, model = null, methods = null, limits = null, running = 0, counter = 0;
let methodsAsked = null, painted = 0;

function node(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text; // names come from files and models: never markup
  if (className) made.className = className;
  return made;
}

function percent(p) {
  if (p > 0 && p < 0.0001) return `< 0.01${NARROW}%`;
  if (p < 1 && p > 0.9999) return `> 99.99${NARROW}%`;
  return `${(100 * p).toFixed(2)}${NARROW}%`;
}
const seconds = (s) => s < 1 ? `${Math.max(1, Math.round(1000 * s))} ms` : `${s.toFixed(1)} s`;
const size = (b) => b >= 1048576 ? `${Math.round(b / 1048576)} MiB` : b >= 1024 ? `${Math.round(b / 1024)} KiB` : `${b} bytes`;
function say(words) { $("live").textContent = words; }
function aborted(error) { return error?.name === "AbortError"; }

function state(kind, words) {
  $("state").className = `pill ${kind}`;
  $("state-words").textContent = words;
}

function refusedWords(error) {
  if (error instanceof Refused) return `${error.problem}. ${error.remedy}`.trim();
  return "This page failed on it. Reload the page, then try again";
}

function keyNeeded(error) {
  if (error?.status !== 401) return false;
  state("warn", "Key needed");
  if ($("key-form").hidden) { $("key-form").hidden = false; $("key").focus(); say("This server asks for an API key"); }
  return true;
}

/* -- the theme -- */

const THEMES = [["", "Auto", "automatic"], ["light", "Light", "light"], ["dark", "Dark", "dark"]];
let theme = 0;
$("theme").addEventListener("click", () => {
  theme = (theme + 1) % THEMES.length;
  const [value, words, spoken] = THEMES[theme];
  if (value) document.documentElement.dataset.theme = value; else delete document.documentElement.dataset.theme;
  $("theme-words").textContent = words;
  $("theme").setAttribute("aria-label", `Theme: ${spoken}`);
});

/* -- taking pictures in -- */

function add(files) {
  const taken = [...files].slice(0, Math.max(0, MOST_PICTURES - items.length));
  if (!taken.length) return;
  const rows = document.createDocumentFragment();
  for (const file of taken) {
    const item = { number: counter += 1, file, name: file.name || `picture ${counter}`, status: "waiting", maps: new Map(), attacks: new Map() };
    item.row = node("li");
    item.row.id = `item-${item.number}`;
    item.row.setAttribute("role", "option");
    item.row.setAttribute("aria-selected", "false");
    item.row.tabIndex = -1;
    item.thumb = node("span", undefined, "blank");
    item.caption = node("span", "", "caption");
    item.row.append(item.thumb, item.caption);
    item.row.addEventListener("click", () => select(item));
    items.push(item);
    rows.append(item.row);
    describe(item);
  }
  $("strip").append(rows);
  gathered();
  select(items.at(-taken.length));
  if (taken.length < files.length) word($("camera-word"), `${MOST_PICTURES} pictures are as many as this page holds; the others were left out`);
  pump();
  thumbs();
}

function gathered() {
  const any = items.length > 0;
  $("strip").hidden = items.length < 1;
  $("clear").hidden = !any;
  $("work").hidden = !any;
  $("pictures").classList.toggle("has-pictures", any);
}

function describe(item) {
  item.caption.replaceChildren();
  let spoken = item.name;
  if (item.status === "done") {
    item.caption.append(node("bdi", item.answer.top[0].label), node("span", percent(item.answer.top[0].prob), "number"));
    spoken += `: ${item.answer.top[0].label}, ${percent(item.answer.top[0].prob)}`;
  } else if (item.status === "failed") {
    item.caption.append(node("bdi", item.error.problem));
    spoken += `: ${item.error.problem}`;
  } else item.caption.append(node("bdi", item.name));
  item.row.classList.toggle("failed", item.status === "failed");
  item.row.setAttribute("aria-label", spoken);
  item.row.title = spoken;
}

async function thumbs() { // one after another, so that many files leave the page free
  if (thumbs.running) return;
  thumbs.running = true;
  for (let item; (item = items.find((one) => !one.thumbed));) {
    item.thumbed = true;
    const made = await picture(item.file, THUMB_PX);
    if (made && items.includes(item)) {
      const side = Math.min(made.width, made.height);
      const cut = document.createElement("canvas");
      cut.width = cut.height = Math.min(side, THUMB_PX);
      cut.getContext("2d").drawImage(made, (made.width - side) / 2, (made.height - side) / 2, side, side, 0, 0, cut.width, cut.height);
      cut.setAttribute("aria-hidden", "true");
      if (side <= 80) cut.className = "tiny";
      item.thumb.replaceWith(cut);
      item.thumb = cut;
    }
    await new Promise((resolve) => setTimeout(resolve));
  }
  thumbs.running = false;
}

function remove(item) {
  const place = items.indexOf(item);
  if (place < 0) return;
  item.controller?.abort();
  item.row.remove();
  items.splice(place, 1);
  gathered();
  if (selected === item) {
    selected = null;
    stopAsking();
    if (items.length) { select(items[Math.min(place, items.length - 1)]); selected.row.focus(); } else $("drop").focus();
  }
}

$("clear").addEventListener("click", () => {
  for (const item of items.splice(0)) { item.controller?.abort(); item.row.remove(); }
  selected = null;
  stopAsking();
  gathered();
  $("drop").focus();
  say("All pictures removed");
});

$("drop").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { add($("file").files); $("file").value = ""; });

let dragged = 0;
const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
document.addEventListener("dragenter", (event) => { if (carriesFiles(event)) { dragged += 1; $("veil").hidden = false; } });
document.addEventListener("dragleave", (event) => { if (carriesFiles(event) && (dragged -= 1) <= 0) { dragged = 0; $("veil").hidden = true; } });
document.addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
document.addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  dragged = 0;
  $("veil").hidden = true;
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files || [])];
  if (files.length) { event.preventDefault(); add(files); }
});

$("strip").addEventListener("keydown", (event) => {
  const place = items.indexOf(selected);
  const to = { ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0, End: items.length - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    select(items[Math.max(0, Math.min(items.length - 1, to))]);
    selected.row.focus();
  } else if (event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    remove(selected);
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (!$("camera").hidden) { closeCamera(); return; }
  if (stopAsking()) say("Stopped");
});

/* -- the camera -- */

function word(place, words) {
  place.textContent = words;
  place.hidden = !words;
}

let stream = null;
$("camera-open").addEventListener("click", async () => {
  word($("camera-word"), "");
  if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) {
    word($("camera-word"), "The browser gives the camera to secure pages only: open this page over https, or on the server's own machine as localhost.");
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } }, audio: false });
  } catch (error) {
    word($("camera-word"), error.name === "NotAllowedError"
      ? "The camera is not allowed for this page. Allow it in the browser's address bar, then try again."
      : error.name === "NotFoundError" ? "This machine has no camera that the browser can see." : "The camera could not be opened. Another program may hold it.");
    return;
  }
  $("video").srcObject = stream;
  $("camera").hidden = false;
  $("camera-open").hidden = true;
  await $("video").play().catch(() => {});
  $("camera-take").focus();
});

function closeCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("video").srcObject = null;
  $("camera").hidden = true;
  $("camera-open").hidden = false;
  $("camera-open").focus();
}
$("camera-close").addEventListener("click", closeCamera);
$("camera-take").addEventListener("click", async () => {
  const video = $("video");
  if (!video.videoWidth) return;
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
  if (blob) add([new File([blob], `camera ${counter + 1}.jpg`, { type: "image/jpeg" })]);
});

/* -- answers -- */

function pump() { // the selected picture first, a few at once
  while (running < AT_ONCE) {
    const item = selected?.status === "waiting" ? selected : items.find((one) => one.status === "waiting");
    if (!item) return;
    running += 1;
    predict(item).finally(() => { running -= 1; pump(); });
  }
}

async function predict(item) {
  item.status = "asking";
  item.controller = new AbortController();
  if (item === selected) paintAnswer(item);
  const begin = performance.now();
  try {
    if (limits && item.file.size > limits.body_bytes) {
      throw new Refused(413, { problem: `The file has ${size(item.file.size)}`, remedy: `This server takes up to ${size(limits.body_bytes)}: make the picture smaller` });
    }
    if (!item.file.size) throw new Refused(422, { problem: "The file is empty", remedy: "Choose another one" });
    const answer = await ask(`predict?top=${TOP}`, { body: item.file, signal: item.controller.signal,
      waiting: (s) => { if (item === selected) $("confidence-words").textContent = `The server is busy: asking again in ${s.toFixed(0)} s`; } });
    const result = answer.results[0];
    if (result.error) throw new Refused(422, result.error);
    item.answer = result;
    item.status = "done";
    latency((performance.now() - begin) / 1000);
    state("good", "Ready");
  } catch (error) {
    if (aborted(error)) return; // it was removed
    item.status = "failed";
    item.error = error instanceof Refused ? error : { problem: refusedWords(error), remedy: "" };
    if (keyNeeded(error)) item.wantsKey = true;
    else if (error.status === 0) state("bad", "Not reached");
  }
  if (!items.includes(item)) return;
  describe(item);
  if (item === selected) { paintAnswer(item); told(item); explore(item); }
}

function told(item) {
  if (item.status === "done") say(`${item.name}: ${item.answer.predicted.join(", ") || "no class"}, ${percent(item.answer.top[0].prob)}`);
  if (item.status === "failed") say(`${item.name}: ${item.error.problem}. ${item.error.remedy || ""}`);
}

function latency(s) {
  latencies.push(s);
  if (latencies.length > 200) latencies.shift();
  const sorted = [...latencies].sort((a, b) => a - b);
  $("latency-last").textContent = seconds(s);
  $("latency-median").textContent = seconds(sorted[sorted.length >> 1]);
}

function select(item) {
  if (!item || item === selected) return;
  if (selected) { selected.row.setAttribute("aria-selected", "false"); selected.row.tabIndex = -1; }
  stopAsking();
  selected = item;
  item.row.setAttribute("aria-selected", "true");
  item.row.tabIndex = 0;
  item.row.scrollIntoView({ block: "nearest", inline: "nearest" });
  $("picture-name").textContent = item.name;
  paintAnswer(item);
  emptyMap();
  emptyAttack();
  preview(item);
  explore(item);
  pump();
  if (item.status === "done" || item.status === "failed") told(item);
}

async function preview(item) {
  const turn = painted += 1;
  const places = [$("picture"), $("beside"), $("under")];
  for (const place of places) place.getContext("2d").clearRect(0, 0, place.width, place.height);
  const made = await picture(item.file, PREVIEW_PX);
  if (turn !== painted) return;
  item.shown = made !== null;
  word($("no-preview"), made ? "" : "The browser cannot show this file; the server may still read it.");
  if (made) for (const place of places) show(place, made);
  $("picture").setAttribute("aria-label", `The picture ${item.name}`);
  $("beside").setAttribute("aria-label", `The picture ${item.name}`);
}

function paintAnswer(item) {
  const failed = item.status === "failed";
  $("answer-body").hidden = failed;
  $("failure").hidden = !failed;
  if (failed) {
    $("failure-problem").textContent = `${item.name}: ${item.error.problem}`;
    $("failure-remedy").textContent = item.error.remedy || "";
    $("failure-id").textContent = item.error.id ? `Request ${item.error.id}` : "";
    $("notes").textContent = "";
    return;
  }
  const done = item.status === "done";
  const answer = item.answer;
  const words = done ? answer.predicted.join(", ") || "No class" : "\u00a0";
  $("predicted").textContent = words;
  $("predicted").parentElement.classList.toggle("long", words.length > 18);
  $("confidence-words").textContent = done
    ? model?.task === "multilabel" ? "All classes that reach their threshold"
      : `${percent(answer.top[0].prob)} ${model?.calibrated ? "calibrated confidence" : "confidence, not calibrated"}` : "Asking the model";
  const rows = done ? answer.top.map((one) => {
    const row = node("li");
    row.classList.toggle("chosen", answer.predicted.includes(one.label));
    const name = node("bdi", one.label, "name");
    name.title = one.label;
    const number = node("span", percent(one.prob), "number");
    number.dataset.prob = one.prob;
    const track = node("span", undefined, "track");
    const fill = node("span", undefined, "fill");
    fill.style.width = `${100 * one.prob}%`;
    track.setAttribute("aria-hidden", "true");
    track.append(fill);
    row.append(name, number, track);
    return row;
  }) : [];
  $("bars").replaceChildren(...rows);
  $("notes").textContent = done ? [`${answer.width} \u00d7 ${answer.height} pixels`, ...answer.notes].join(" \u00b7 ") : "";
}

$("again").addEventListener("click", () => {
  if (!selected) return;
  selected.status = "waiting";
  describe(selected);
  paintAnswer(selected);
  pump();
});

/* -- why -- */

let asking = null, mapTimer = 0;

function stopAsking() {
  let stopped = false;
  for (const one of [asking, attacking]) if (one) { one.abort(); stopped = true; }
  asking = attacking = null;
  clearTimeout(mapTimer);
  clearTimeout(attackTimer);
  $("map-frame").classList.remove("busy");
  $("break").classList.remove("busy");
  $("smallest").disabled = false;
  return stopped;
}

async function learnMethods() {
  methodsAsked ??= ask("methods").then((found) => {
    methods = found;
    fill($("method"), found.explain.map((one) => [one.name, one.title || one.name]));
    fill($("attack"), found.attack.map((one) => [one.name, one.title || one.name]).reverse());
    const none = found.why_not ? `${found.why_not}, so this server gives answers only.` : "";
    word($("why-word"), none || (found.explain.length ? "" : "No method of explanation suits this model."));
    word($("break-word"), none || (found.attack.length ? "" : "This model cannot be attacked by gradients: it gives several labels, or has none."));
    $("why-body").hidden = !found.explain.length;
    $("break-body").hidden = !found.attack.length;
  }).catch((error) => {
    methodsAsked = null;
    if (!keyNeeded(error)) { word($("why-word"), refusedWords(error)); }
  });
  return methodsAsked;
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, words]) => { const one = node("option", words); one.value = value; return one; }));
}

function emptyMap() {
  $("map").hidden = true;
  $("map").removeAttribute("src");
  $("map-words").textContent = "\u00a0";
  $("under").classList.remove("grey");
}

async function explore(item) {
  $("why").hidden = $("break").hidden = item.status === "failed";
  if (item.status !== "done") return;
  await new Promise((resolve) => setTimeout(resolve, 150)); // arrow keys may already have gone on
  if (item !== selected) return;
  if (!methods) $("map-words").textContent = "Loading the model that is asked for reasons";
  await learnMethods();
  if (item !== selected || !methods) return;
  fillClasses(item);
  if (methods.explain.length) explain(item);
  if (methods.attack.length) { $("before").textContent = `${item.answer.top[0].label}, ${percent(item.answer.top[0].prob)}`; attackNow(item); }
}

function fillClasses(item) {
  if (!model) return;
  const top = item.answer.top.map((one) => model.labels.indexOf(one.label)).filter((k) => k >= 0);
  const rest = model.labels.map((_, k) => k).filter((k) => !top.includes(k));
  const named = (k) => [String(k), model.labels[k]];
  fill($("class"), [["", `its answer: ${item.answer.top[0].label}`], ...top.slice(1).map(named), ...rest.map(named)]);
}

async function explain(item) {
  asking?.abort();
  clearTimeout(mapTimer);
  const method = $("method").value, about = methods.explain.find((one) => one.name === method);
  $("class").disabled = about?.asks_class === false;
  const asked = $("class").disabled ? "" : $("class").value;
  const name = `${method} ${asked}`;
  const known = item.maps.get(name);
  if (known) { asking = null; $("map-frame").classList.remove("busy"); paintMap(item, known, about); return; }
  const controller = asking = new AbortController();
  mapTimer = setTimeout(() => { if (asking === controller) $("map-frame").classList.add("busy"); }, 120);
  try {
    const query = new URLSearchParams({ method });
    if (asked) query.set("class_index", asked);
    const found = await ask(`explain?${query}`, { body: item.file, signal: controller.signal,
      waiting: (s) => { $("map-words").textContent = `The server is busy: asking again in ${s.toFixed(0)} s`; } });
    item.maps.set(name, found);
    if (item.maps.size > 12) item.maps.delete(item.maps.keys().next().value);
    if (asking === controller) paintMap(item, found, about);
  } catch (error) {
    if (!aborted(error) && asking === controller && !keyNeeded(error)) { emptyMap(); $("map-words").textContent = refusedWords(error); say(refusedWords(error)); }
  } finally {
    if (asking === controller) { asking = null; clearTimeout(mapTimer); $("map-frame").classList.remove("busy"); }
  }
}

function paintMap(item, found, about) {
  if (item !== selected) return;
  const map = $("map");
  map.src = found.map;
  map.alt = `${about?.title || found.method}: map of what speaks for ${found.label} in ${item.name}`;
  map.hidden = false;
  $("under").classList.add("grey");
  $("scale").classList.toggle("signed", found.signed);
  $("scale-low").textContent = found.signed ? "against" : "less";
  $("scale-high").textContent = found.signed ? "for it" : "more";
  const what = about?.summary ? about.summary[0].toUpperCase() + about.summary.slice(1) : found.method;
  const part = model?.bundle.preprocessing.resize === "crop" ? " It sees the middle of the picture only." : "";
  const whom = about?.asks_class === false ? "" : ` Asked about ${found.label}, ${percent(found.prob)}.`;
  $("map-words").textContent = `${what}.${whom}${part} ${seconds(found.seconds)}, from the torch model of the bundle.`;
  if (item.shown === false) showInput(found.input);
}

function showInput(uri) { // what the network sees, where the browser cannot show the file
  const image = new Image();
  image.addEventListener("load", () => {
    for (const place of [$("picture"), $("beside"), $("under")]) show(place, image);
    word($("no-preview"), "");
  });
  image.src = uri;
}

function opacity() {
  $("opacity-value").textContent = `${$("opacity").value}${NARROW}%`;
  $("map").style.opacity = Number($("opacity").value) / 100;
}
$("opacity").addEventListener("input", opacity);
$("method").addEventListener("change", () => { if (selected?.status === "done") explain(selected); });
$("class").addEventListener("change", () => { if (selected?.status === "done") explain(selected); });

/* -- how easily it breaks -- */

let attacking = null, attackTimer = 0;
const levels = () => Number($("epsilon").value);
const attackKey = (eps) => `${$("attack").value} ${eps}`;

function emptyAttack() {
  $("epsilon").value = 0;
  epsilonWords();
  for (const id of ["original", "changed", "difference"]) { $(id).hidden = true; $(id).removeAttribute("src"); }
  for (const id of ["before", "after", "gain"]) $(id).textContent = "\u00a0";
  verdict("", "Move the slider.", "");
  paintTried(null);
}

function epsilonWords() {
  $("epsilon-value").textContent = `${levels()} / 255`;
  $("epsilon").setAttribute("aria-valuetext", `${levels()} of 255 grey levels`);
}

function verdict(kind, words, more) {
  $("verdict").className = `verdict ${kind}`;
  $("verdict").replaceChildren(node("bdi", words), node("span", more));
}

function tries(item) {
  const found = [];
  for (let eps = 1; eps <= 16; eps += 1) { const one = item?.attacks.get(attackKey(eps)); if (one) found.push([eps, one.broken]); }
  return found;
}

function paintTried(item) {
  const found = new Map(item ? tries(item) : []);
  $("tried").replaceChildren(...Array.from({ length: 16 }, (_, k) => {
    const cell = node("span", undefined, found.has(k + 1) ? (found.get(k + 1) ? "broken" : "held") : "");
    if (k + 1 === levels()) cell.classList.add("now");
    return cell;
  }));
  const broke = [...found].filter(([, broken]) => broken).map(([eps]) => eps);
  $("tried").setAttribute("aria-label", found.size ? `Tried ${[...found.keys()].join(", ")} of 255; ${broke.length ? `broken at ${broke.join(", ")}` : "held at all"}` : "No change tried yet");
  return broke.length ? Math.min(...broke) : null;
}

async function attackAt(item, eps, controller) {
  const key = attackKey(eps);
  if (!item.attacks.has(key)) {
    const query = new URLSearchParams({ epsilon: (eps / 255).toFixed(10), method: $("attack").value });
    item.attacks.set(key, await ask(`attack?${query}`, { body: item.file, signal: controller.signal,
      waiting: (s) => verdict("", "The server is busy", `asking again in ${s.toFixed(0)} s`) }));
  }
  return item.attacks.get(key);
}

async function attackNow(item) {
  attacking?.abort();
  const controller = attacking = new AbortController();
  $("break").classList.add("busy");
  try {
    const found = await attackAt(item, levels(), controller);
    if (attacking === controller) paintAttack(item, found);
  } catch (error) {
    attackFailed(error, controller);
  } finally {
    if (attacking === controller) { attacking = null; $("break").classList.remove("busy"); }
  }
}

function attackFailed(error, controller) {
  if (aborted(error) || attacking !== controller || keyNeeded(error)) return;
  verdict("", error.problem || refusedWords(error), error.remedy || "");
}

function paintAttack(item, found) {
  if (item !== selected) return;
  const [was, is] = [found.before.top[0], found.after.top[0]];
  for (const [id, uri, words] of [["original", found.original, `${item.name} as the network sees it`],
    ["changed", found.picture, `${item.name}, changed by at most ${found.most} of 255`], ["difference", found.difference, `The difference, ${found.gain} times as strong`]]) {
    const image = $(id);
    image.onload = () => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= 128);
    image.src = uri;
    image.alt = words;
    image.hidden = false;
  }
  $("before").textContent = `${was.label}, ${percent(was.prob)}`;
  $("after").textContent = `${is.label}, ${percent(is.prob)}`;
  $("after").classList.toggle("broken", found.broken);
  $("gain").textContent = found.most ? `at most ${found.most} of 255, shown ${found.gain} \u00d7` : "nothing was changed";
  const least = paintTried(item);
  const more = least === null ? "" : `The smallest change tried at which it breaks is ${least} of 255.`;
  if (!levels()) verdict("", least === null ? "Move the slider." : "Unchanged.", more);
  else if (found.broken) verdict("broken", `Broken: it now answers ${is.label}.`, more);
  else verdict("held", `It holds: still ${is.label}.`, more);
}

$("epsilon").addEventListener("input", () => {
  epsilonWords();
  paintTried(selected);
  if (selected?.status !== "done") return;
  attacking?.abort();
  clearTimeout(attackTimer);
  $("smallest").disabled = false;
  const item = selected;
  attackTimer = setTimeout(() => { if (item === selected) attackNow(item); }, item.attacks.has(attackKey(levels())) ? 0 : 160);
});
$("attack").addEventListener("change", () => { if (selected?.status === "done") attackNow(selected); });

$("smallest").addEventListener("click", async () => {
  const item = selected;
  if (item?.status !== "done") return;
  attacking?.abort();
  clearTimeout(attackTimer);
  const controller = attacking = new AbortController();
  $("smallest").disabled = true;
  $("break").classList.add("busy");
  const move = (eps) => { $("epsilon").value = eps; epsilonWords(); };
  try {
    let low = 0, high = 16;
    move(high);
    let found = await attackAt(item, high, controller);
    if (found.broken) {
      while (high - low > 1) { // between one that holds and one that breaks
        const middle = (low + high) >> 1;
        move(middle);
        if ((await attackAt(item, middle, controller)).broken) high = middle; else low = middle;
        if (attacking !== controller) return;
        paintTried(item);
      }
      move(high);
      found = await attackAt(item, high, controller);
    }
    if (attacking === controller) paintAttack(item, found);
  } catch (error) {
    attackFailed(error, controller);
  } finally {
    if (attacking === controller) { attacking = null; $("break").classList.remove("busy"); $("smallest").disabled = false; }
  }
});

/* -- the model and the server -- */

const MOST_ROWS = 120;

function flat(value, path, out) { // nested values as (name, text), in order
  if (out.length >= MOST_ROWS) return out;
  if (value === null || value === undefined || value === "") return out;
  if (Array.isArray(value)) {
    if (value.every((one) => one === null || typeof one !== "object")) {
      if (value.length) out.push([path, value.slice(0, 24).map(text).join(", ") + (value.length > 24 ? `, and ${value.length - 24} more` : "")]);
    } else value.slice(0, 12).forEach((one, k) => flat(one, `${path} ${k + 1}`, out));
  } else if (typeof value === "object" && typeof value.value === "number") {
    const interval = typeof value.low === "number" && typeof value.high === "number" ? ` (${text(value.low)} to ${text(value.high)})` : "";
    out.push([path, text(value.value) + interval]);
  } else if (typeof value === "object") {
    for (const [key, one] of Object.entries(value)) flat(one, path ? `${path.replace(/,$/, "")}, ${key.replaceAll("_", " ")}` : key.replaceAll("_", " "), out);
  } else out.push([path, text(value)]);
  return out;
}

function text(value) {
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(4)));
  if (typeof value === "number") return value >= 10000 ? value.toLocaleString("en") : String(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return String(value);
}

function rowsOf(title, rows) {
  const made = node("table"), body = node("tbody");
  made.setAttribute("aria-label", title);
  for (const [name, value] of rows) {
    const row = node("tr"), head = node("th", name);
    head.scope = "row";
    const cell = node("td");
    cell.append(node("bdi", value));
    row.append(head, cell);
    body.append(row);
  }
  made.append(body);
  return made;
}

function part(title, open, ...content) { // folded away on a small screen
  const made = node("details", undefined, "part"), summary = node("summary");
  summary.append(node("h3", title));
  made.append(summary, ...content);
  made.open = open || window.innerWidth > 700;
  return made;
}

function perClass(rows) { // precision, recall and the like of each class, folded away
  const columns = Object.keys(rows[0]);
  const made = node("table", undefined, "wide"), head = node("thead"), body = node("tbody"), first = node("tr");
  for (const name of columns) { const cell = node("th", name.replaceAll("_", " ")); cell.scope = "col"; first.append(cell); }
  head.append(first);
  for (const one of rows.slice(0, 1000)) {
    const row = node("tr");
    columns.forEach((name, k) => {
      const cell = node(k ? "td" : "th");
      if (!k) cell.scope = "row";
      cell.append(node("bdi", one[name] === null || typeof one[name] === "object" ? "\u2013" : text(one[name])));
      row.append(cell);
    });
    body.append(row);
  }
  made.append(head, body);
  const box = node("div", undefined, "scroll"), folded = node("details");
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Each class");
  box.append(made);
  folded.append(node("summary", "Each class"), box);
  return folded;
}

function paintCard(card) {
  if (!card) return [node("p", "The bundle holds no card.json: export the run again to add one.", "muted small")];
  const { model: _model, task, classes, preprocessing, calibration, per_class: each, metrics, headline, baselines, findings, intended_use: use, measured_on: on, ...rest } = card;
  const list = (value) => Array.isArray(value) ? value : [];
  const parts = [];
  if (use) parts.push(node("p", text(use), "small"));
  parts.push(rowsOf("Model card", [...flat(rest, "", []), ...list(findings).map((one) => ["finding", one?.title ?? text(one)])]));
  const simpler = list(baselines).map((one) => [one?.name, one?.metrics?.[headline?.name]?.value])
    .filter(([, value]) => typeof value === "number").map(([name, value]) => [`${headline.name.replaceAll("_", " ")} of ${name}`, text(value)]);
  const measured = flat(metrics, "", []);
  if (measured.length) {
    parts.push(node("h4", `Measured${on?.images ? ` on ${text(on.images)} images of the ${on.split} split` : ""}, with 95\u202f% intervals`));
    parts.push(rowsOf("Measured", [...measured, ...simpler]));
  }
  if (each?.length && typeof each[0] === "object") parts.push(perClass(each));
  return parts;
}

function paintPassport(passport) {
  if (!passport) return [node("p", "The bundle holds no passport.json: none was written for this architecture.", "muted small")];
  const { fingerprint, preprocessing, module, published, ...rest } = passport;
  const claims = Array.isArray(published) ? published.map((one) => [`published ${one.what}`,
    [text(one.value), one.data, one.ours === null || one.ours === undefined ? "" : `ours ${text(one.ours)}`, one.reason, one.source].filter(Boolean).join("; ")]) : [];
  return [rowsOf("Passport", [...flat(rest, "", []), ...claims])];
}

function paintModel() {
  const { bundle, labels } = model;
  const rules = bundle.preprocessing;
  const [h, w] = rules.size;
  document.title = `${model.model} \u00b7 Visus`;
  $("model").textContent = model.model;
  $("served").textContent = `version ${model.version}`;
  $("sentence").textContent = `${labels.length.toLocaleString("en")} classes, ${w} \u00d7 ${h} pixels${rules.channels === 1 ? " in grey" : ""}, ${model.calibrated ? "calibrated confidence" : "confidence not calibrated"}.`;
  const { preprocessing, golden, format, version, model: _model, ...about } = bundle;
  const compared = `Compared with the original${about["exported as"] ? `, in ${about["exported as"]}` : ""}`;
  const classes = node("details"), names = node("ul", undefined, "names");
  classes.append(node("summary", `${labels.length.toLocaleString("en")} classes`), names);
  names.append(...labels.slice(0, 2000).map((label) => { const one = node("li"); one.append(node("bdi", label)); return one; }));
  names.tabIndex = 0;
  names.setAttribute("aria-label", "Classes");
  $("card").replaceChildren(
    part("What is served", true, rowsOf("What is served", [["model", model.model], ["version", model.version], ...flat({ ...about, visus: version }, "", [])]), classes),
    part("Model card", false, ...paintCard(model.card)),
    part("What it does to a picture first", false, rowsOf("Preprocessing", flat(preprocessing, "", []))),
    ...(golden ? [part(compared, false, rowsOf(compared, flat(golden, "", [])))] : []),
    part("Passport of the architecture", false, ...paintPassport(model.passport)));
}

async function begin() {
  try {
    [model, limits] = await Promise.all([ask("card"), ask("limits")]);
    state("good", "Ready");
    $("key-form").hidden = true;
    $("limit-bytes").textContent = size(limits.body_bytes);
    $("limit-pixels").textContent = `${Math.round(limits.pixels / 1e6)} Mpx`;
    paintModel();
    if (selected) { paintAnswer(selected); explore(selected); }
  } catch (error) {
    if (keyNeeded(error)) { $("card").replaceChildren(node("p", "Shown when the key is given.", "muted")); return; }
    state("bad", error.status === 0 ? "Not reached" : "Not ready");
    $("card").replaceChildren(node("p", refusedWords(error), "muted"));
  }
}

$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey($("key").value.trim());
  $("key").value = "";
  $("key-form").hidden = true;
  methodsAsked = null;
  await begin();
  if (!$("key-form").hidden) { say("The server does not accept this key"); return; }
  for (const item of items) if (item.wantsKey) { item.wantsKey = false; item.status = "waiting"; describe(item); }
  pump();
});

window.addEventListener("pagehide", () => stream?.getTracks().forEach((track) => track.stop()));
opacity();
emptyAttack();
begin();
