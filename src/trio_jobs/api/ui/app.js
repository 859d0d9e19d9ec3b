"use strict";

// The theme comes first, before anything is painted: this script is in the head, without defer.
const root = document.documentElement;
const THEME = "trio-jobs.theme";

function keptTheme() {
  try { return localStorage.getItem(THEME) ?? ""; } catch { return ""; } // storage can be forbidden
}

function setTheme(theme) {
  if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
}

setTheme(keptTheme());
document.addEventListener("DOMContentLoaded", main);

// ---- Words and numbers

const NUMBER = new Intl.NumberFormat("en");
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const EXACT = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
const WORDS = { pending: "waiting", processing: "running", timed_out: "timed out" };
const UNSUCCESSFUL = ["failed", "timed_out", "interrupted"];

const number = (n) => NUMBER.format(n);
const count = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
const word = (state) => WORDS[state] ?? state;
const amount = (done, total) => (total ? `${number(done)} of ${number(total)}` : number(done));
const errorText = ({ type, message }) => [type, message].filter(Boolean).map(visible); // a message can be withheld
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
const shortId = (id) => `${id.slice(0, 8)}…${id.slice(-6)}`;
const secondsBetween = (a, b) => (Date.parse(b) - Date.parse(a)) / 1000;

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return "<1 ms";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole % 86400 / 3600)} h`;
}

function clock(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  return today ? CLOCK.format(date) : `${DAY.format(date)}, ${CLOCK.format(date)}`;
}

// Controls and marks of direction could make a text look like another one: they are shown by number.
function visible(text) {
  return String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// ---- Elements

const $ = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "onclick") element.addEventListener("click", value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((each) => each !== null && each !== undefined));
  return element;
}

// Text that comes from clients and handlers: its direction is its own.
const foreign = (text) => make("span", { class: "text-only", dir: "auto", title: text.length > 25 ? visible(text) : null }, visible(text));

// An unchanged text or attribute costs the browser nothing.
function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

// Put these elements into their parent, in order; those that are in their place are not touched.
function arrange(parent, elements) {
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  elements.forEach((element, i) => {
    if (parent.children[i] !== element) parent.insertBefore(element, parent.children[i] ?? null);
  });
}

function wait(seconds, signal) {
  return new Promise((done, fail) => {
    const timer = setTimeout(done, seconds * 1000);
    signal.addEventListener("abort", () => { clearTimeout(timer); fail(signal.reason); }, { once: true });
  });
}

function main() {
  // ---- What the page knows

  let state = null; // what the server does, as GET /pool has it
  let stateAt = 0; // when it came, in milliseconds of this page's clock
  let link = "new"; // "new", "live", "lost", "ended" (the server has stopped) or "out" (signed out)
  let me = null; // {role, name, session}
  let hostDecides = false; // whether the application that has the server below a mount ended it

  const mayControl = () => me?.role === "control" && link === "live";
  const maySubmit = () => mayControl() && state.status === "ready"; // and all else that a stop refuses
  const age = () => (link === "live" ? (performance.now() - stateAt) / 1000 : 0);
  const now = () => Date.parse(state.now) + age() * 1000;

  // ---- Requests

  class Refused extends Error {
    constructor(status, detail, byHost = false) { super(detail); this.status = status; this.byHost = byHost; }
  }

  async function request(method, path, { body, signal } = {}) {
    let answer;
    try {
      answer = await fetch(path, { method, body: body && JSON.stringify(body), signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "The server does not answer.");
    }
    if (answer.ok) return answer;
    // Below the mount of an application, that one decides who comes in; here nobody can sign in.
    const byHost = (answer.headers.get("WWW-Authenticate") ?? "").startsWith("Application");
    if (answer.status === 401) signOut("", byHost);
    const problem = await answer.json().catch(() => null);
    throw new Refused(answer.status, problem?.detail ?? `The server answers with ${answer.status}.`, byHost);
  }

  const post = async (path, body) => (await request("POST", path, { body })).json();

  // ---- The connection: one stream, open only while somebody can see the page. A browser has six
  // connections for a server, and a page that nobody looks at must not take one.

  let connection = new AbortController();
  let tries = 0;
  let retryTimer = 0;

  function disconnect() {
    clearTimeout(retryTimer);
    connection.abort();
  }

  async function connect() {
    disconnect();
    if (document.hidden) return;
    const { signal } = (connection = new AbortController());
    let bye = false;
    try {
      await enter(signal);
      bye = await follow(signal);
    } catch (error) {
      if (signal.aborted || link === "out") return;
      if (error.status === 403) return signOut(error.message, error.byHost);
    }
    if (signal.aborted || link === "out") return;
    if (bye) link = "ended";
    else if (link !== "ended") link = "lost";
    draw();
    const seconds = Math.min(16, 0.5 * 2 ** tries++) * (0.75 + Math.random() / 2);
    retryTimer = setTimeout(connect, seconds * 1000);
  }

  // Ask who the server thinks we are; it also says whether there is a server.
  async function enter(signal) {
    me = await (await request("GET", "ui/session", { signal })).json();
    if (me.role === "submit") throw new Refused(403, "This token submits jobs; the page needs one that may read.");
    $("login").hidden = true;
    $("sign-out").hidden = !me.session;
    $("who").hidden = !me.session && !me.name;
    setText($("who"), [me.name, me.role].filter(Boolean).join(", "));
  }

  // Follow the server until it says bye (true) or breaks off.
  async function follow(signal) {
    let answer;
    try {
      answer = await request("GET", "events", { signal });
    } catch (error) {
      // No stream is to be had, or all are taken: then the page asks, as often as it needs to.
      if (error.status === 404) return poll(signal, Infinity);
      if (error.status === 503) return poll(signal, 10);
      throw error;
    }
    // A stream has a heartbeat every 15 s; one that is silent for longer is dead, though no
    // connection may have been closed.
    const silence = () => setTimeout(() => body.cancel(), 40_000);
    const body = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let watch = silence();
    let text = "";
    let bye = false;
    while (!bye) {
      const { value, done } = await body.read();
      clearTimeout(watch);
      if (done) break;
      watch = silence();
      text += value;
      const messages = text.split("\n\n");
      text = messages.pop();
      for (const message of messages) bye ||= take(message);
    }
    clearTimeout(watch);
    body.cancel().catch(() => {}); // it may have failed already
    return bye;
  }

  function take(message) {
    const fields = new Map(message.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
    if (fields.get("event") === "state") receive(JSON.parse(fields.get("data")));
    return fields.get("event") === "bye";
  }

  async function poll(signal, times) {
    for (let i = 0; i < times; i++) {
      receive(await (await request("GET", "pool", { signal })).json());
      await wait(2, signal);
    }
    return follow(signal);
  }

  function receive(next) {
    const restarted = state !== null && state.boot !== next.boot;
    // The types come once a second, and not with each snapshot.
    state = restarted ? next : { ...state, ...next };
    stateAt = performance.now();
    if (link !== "live") {
      link = "live";
      tries = 0;
      $("main").hidden = false;
      followUrl();
      list.load();
    } else if (restarted) {
      list.load();
    }
    redraw();
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) disconnect();
    else if (link !== "out") connect();
  });
  addEventListener("pagehide", disconnect);
  addEventListener("pageshow", (event) => { if (event.persisted && link !== "out") connect(); });
  addEventListener("online", () => { if (link === "lost") connect(); });

  // ---- Drawing: once a frame at most, and only what has changed

  let frame = 0;
  function redraw() {
    frame ||= requestAnimationFrame(() => { frame = 0; draw(); });
  }
  setInterval(() => { if (link === "live" && !document.hidden) redraw(); }, 1000); // times go on

  function draw() {
    drawStatus();
    if (state === null || link === "out") return;
    drawTiles();
    drawSlots();
    drawTypes();
    list.follow();
    detail.follow();
  }

  function drawStatus() {
    const [words, kind] = status();
    setText($("status"), words);
    $("status").className = `pill ${kind}`;
    root.classList.toggle("old", state !== null && (link === "lost" || link === "ended"));
    // Screen readers announce the first text when it changes, and not the numbers behind it.
    const [text, more] = warning();
    $("banner").hidden = !text;
    setText($("banner-text"), text);
    setText($("banner-more"), more ?? "");
    $("banner").classList.toggle("bad", link !== "live" || Boolean(state?.store_failing_seconds));
    document.title = link === "live"
      ? `${state.busy} running, ${state.buffered} in the buffer – trio-jobs` : `${words} – trio-jobs`;
  }

  function status() {
    switch (link) {
      case "new": return ["Connecting…", ""];
      case "out": return ["Signed out", ""];
      case "lost": return ["Not connected", "bad"];
      case "ended": return ["Stopped", "bad"];
    }
    if (state.status !== "ready") return ["Stopping", "warn"];
    if (state.intake !== "paused") return ["Ready", "good"];
    return [state.busy + state.pending ? "Intake paused" : "Intake paused, all done", "warn"];
  }

  function warning() {
    if (link === "ended") return ["The server has stopped. This page looks for it again by itself."];
    if (link === "lost") return [state ? "No connection to the server: these numbers are old. This page tries again by itself." : "The server does not answer. This page tries again by itself."];
    if (link === "out" && hostDecides) return ["The application lets you in here no more. Sign in there, then reload this page."];
    if (link !== "live") return [""];
    if (state.status !== "ready") {
      if (!state.stop) return ["The server is stopping: it takes no new jobs."]; // below a mount
      const { jobs_left: left, grace_seconds_left: seconds } = state.stop;
      const rest = left ? `It works off ${count(left, "job")}, within ${duration(Math.max(0, seconds - age()))}.` : "It has worked off its jobs.";
      const stays = state.unwritten === undefined ? 0 : state.pending + state.busy - left; // with a file or a database
      const next = state.database === undefined ? "in the file for the next start" : "in the database for the other servers";
      const kept = stays > 0 ? ` ${count(stays, "job")} ${stays === 1 ? "stays" : "stay"} ${next}.` : "";
      return ["The server is stopping: it takes no new jobs.", rest + kept];
    }
    if (state.store_failing_seconds) return [`The ${state.database === undefined ? "store’s file" : "database"} cannot be written: new jobs are refused, and ends of jobs wait in memory.`, `For ${duration(state.store_failing_seconds + age())} now.`];
    if (state.database === "away") return ["The database does not answer: new jobs wait for it, or are refused."];
    return [state.blocked ? `Jobs cannot begin: ${visible(state.blocked)}` : ""];
  }

  function drawTiles() {
    setText($("busy"), number(state.busy));
    setText($("workers"), count(state.workers, "worker"));
    $("busy-meter").value = state.workers ? Math.min(1, state.busy / state.workers) : 0;
    const oldest = state.oldest_running_seconds;
    setText($("busy-note"), oldest === null ? "All idle" : `Longest: ${duration(oldest + age())}`);

    setText($("buffered"), number(state.buffered));
    setText($("buffer-size"), count(state.buffer_size, "place"));
    $("buffer-meter").value = state.buffered / state.buffer_size;
    const longest = state.oldest_pending_seconds;
    setText($("buffer-note"), `Peak: ${number(state.peak_buffered)}${longest ? ` · oldest: ${duration(longest + age())}` : ""}`);

    const counted = state.totals !== undefined; // a pool in an application counts if it is asked to
    $("ended-tile").hidden = $("types-section").hidden = $("ended-note").hidden = !counted;
    const rates = state.ended_per_second ?? [];
    const good = sum(rates.map(([a]) => a));
    const bad = sum(rates.map(([, b]) => b));
    const latest = sum(rates.slice(-10).flat()) / 10;
    setText($("rate"), latest > 0 && latest < 9.95 ? latest.toFixed(1) : number(Math.round(latest)));
    setText($("rate-note"), `${number(good + bad)} in the last minute, ${number(bad)} without success`);
    drawChart(rates);

    const totals = Object.values(state.totals ?? {});
    const unsuccessful = sum(totals) - (state.totals?.succeeded ?? 0);
    setText($("uptime"), `Up ${duration((now() - Date.parse(state.started_at)) / 1000)}`);
    setText($("ended"), number(counted ? sum(totals) : state.kept));
    setText($("ended-unit"), counted ? "ended" : "kept");
    setText($("ended-note"), `${number(unsuccessful)} without success`);
    const dropped = sum(Object.values(state.dropped));
    setText($("kept-note"), [counted && state.database === undefined ? `${number(state.kept)} kept` : "", dropped ? `${number(dropped)} dropped` : ""].filter(Boolean).join(", "));
  }

  function drawChart(rates) {
    const top = Math.max(1, ...rates.map(([a, b]) => a + b));
    const step = 240 / Math.max(1, rates.length);
    const height = (n) => (n ? Math.max(1.5, n / top * 38) : 0);
    const bars = [["good", (a) => [0, height(a)]], ["bad", (a, b) => [height(a), height(b)]]];
    for (const [kind, heights] of bars) {
      const path = rates.map(([a, b], i) => {
        const [from, tall] = heights(a, b);
        return tall ? `M${(i * step).toFixed(1)} ${(39 - from).toFixed(1)}v${-tall.toFixed(1)}h${(step * 0.72).toFixed(1)}v${tall.toFixed(1)}z` : "";
      });
      setAttribute($("spark").querySelector(`.${kind}`), "d", path.join(""));
    }
  }

  // ---- Workers. A job keeps its place while it runs; a place under the pointer or the focus is
  // not given to another job, so that nobody cancels the wrong one.

  const PHONE = matchMedia("(max-width: 700px)").matches; // where idle workers are no cards
  const FEW = PHONE ? 6 : 20;
  const slotCards = [];
  let places = [];
  let showAll = false;

  function drawSlots() {
    const running = new Map(state.slots.map((slot) => [slot.id, slot]));
    const total = Math.max(state.workers, state.slots.length);
    const shown = Math.min(total, showAll ? 200 : FEW);
    places = Array.from({ length: shown }, (_, i) => places[i] ?? null);
    const first = new Set([...running.keys()].slice(0, shown));
    places = places.map((id, i) => (id && !first.has(id) && !slotCards[i]?.held() ? null : id));
    for (const id of first) {
      const free = places.indexOf(null);
      if (!places.includes(id) && free >= 0) places[free] = id;
    }
    while (slotCards.length < shown) slotCards.push(makeSlot());
    places.forEach((id, i) => slotCards[i].show(id, running.get(id)));
    arrange($("slots"), slotCards.slice(0, shown).map((card) => card.element));

    const idle = PHONE || total > shown ? Math.max(0, state.workers - state.busy) : 0;
    setText($("workers-note"), [idle ? `${number(idle)} idle` : "", state.leaving ? leavingText(state.leaving) : ""].filter(Boolean).join(", "));
    $("all-slots").hidden = (PHONE ? state.slots.length : total) <= FEW;
    setText($("all-slots"), showAll ? `Show the ${FEW} longest` : total > 200 ? "Show 200" : `Show all ${number(total)}`);
    setAttribute($("all-slots"), "aria-expanded", String(showAll));
    setText($("wanted"), number(state.workers));
    $("stepper").hidden = !maySubmit() || state.leaving === undefined;
    $("fewer").disabled = state.workers <= 1;
    $("intake").hidden = !maySubmit() || state.intake === undefined;
    setText($("intake"), state.intake === "paused" ? "Open intake" : "Pause intake");
  }

  function makeSlot() {
    let id; // of no card yet; null is a worker without a job
    let slot = null;
    const name = make("span");
    const about = make("p", { class: "about" });
    const bar = make("progress", { max: 1, hidden: true, "aria-label": "Progress" });
    const cancel = make("button", { type: "button", class: "plain icon", title: "Cancel", hidden: true, onclick: () => cancelJob(id, slot.type) }, make("span", { "aria-hidden": "true" }, "✕"));
    const element = make("li", { class: "slot idle" }, make("div", { class: "text" }, name, about), cancel, bar);

    function show(next, running) {
      if (next !== id) {
        const label = next && make("button", { type: "button", class: "link", onclick: () => detail.open(next) }, foreign(running.type));
        name.replaceChildren(label ?? "idle");
        if (next) cancel.setAttribute("aria-label", `Cancel ${visible(running.type)} ${shortId(next)}`);
        id = next;
      }
      slot = running ?? slot;
      const over = id && !running;
      element.className = `slot${id ? "" : " idle"}${running?.cancel ? " cancel" : ""}`;
      cancel.hidden = !running || running.cancel || !mayControl();
      setText(about, !id ? "" : over ? "has ended" : doing(running));
      const { done, total } = running?.progress ?? {};
      bar.hidden = !total;
      if (total) bar.value = Math.min(1, done / total);
    }

    return { element, show, held: () => element.matches(":hover, :focus-within") };
  }

  function doing(slot) {
    const parts = [duration(slot.running_seconds + age())];
    if (slot.cancel) parts.push("is being cancelled");
    else if (slot.progress) parts.push(progressText(slot.progress));
    else if (!slot.begun) parts.push("waits to begin");
    else if (slot.run && slot.run !== "trio") parts.push(slot.run);
    if (slot.attempt > 1) parts.push(`attempt ${slot.attempt}`);
    return parts.join(" · ");
  }

  const progressText = ({ done, total, message }) => (message ? visible(message) : amount(done, total));

  $("all-slots").addEventListener("click", () => { showAll = !showAll; redraw(); });

  // ---- Types

  const typeRows = new Map();

  function drawTypes() {
    const types = state.types ?? {};
    const names = Object.keys(types).sort((a, b) => a.localeCompare(b, "en"));
    for (const name of typeRows.keys()) if (!(name in types)) typeRows.delete(name);
    // On most servers no crash has interrupted a job: then the column is only in the way.
    const interrupted = names.some((name) => types[name].outcomes.interrupted);
    $("interrupted").hidden = !interrupted;
    for (const name of names) {
      if (!typeRows.has(name)) typeRows.set(name, makeType(name));
      typeRows.get(name).show(types[name], state.paused?.includes(name), interrupted);
    }
    arrange($("types"), names.map((name) => typeRows.get(name).element));
    $("no-types").hidden = names.length > 0;
    list.offerTypes(names);

    const open = names.some((name) => !state.paused?.includes(name));
    $("pause-all").hidden = !maySubmit() || state.paused === undefined || names.length < 2;
    setText($("pause-all"), open ? "Pause all" : "Resume all");
    setText($("types-note"), state.held ? `${count(state.held, "job")} held back` : "");
  }

  function makeType(name) {
    let paused = false;
    const cells = ["waiting", "running", "retrying", "succeeded", "failed", "timed out", "interrupted", "cancelled", "p50", "p95", "wait p95"]
      .map((unit) => make("td", { role: "cell", class: "n", "data-unit": unit }));
    const tag = make("span", { class: "tag paused", hidden: true }, "paused");
    const again = make("button", { type: "button", hidden: true, onclick: () => rerunMany(name) }, "Rerun failed");
    const pause = make("button", { type: "button", hidden: true, onclick: () => pauseType(name, !paused) });
    const known = name !== "(other)";
    again.setAttribute("aria-label", `Rerun failed ${visible(name)}`);
    const element = make("tr", { role: "row" },
      make("th", { role: "rowheader", scope: "row" }, known ? make("button", { type: "button", class: "link", title: "Show its jobs", onclick: () => list.choose(name) }, foreign(name)) : name, " ", tag), ...cells,
      make("td", { role: "cell", class: "act" }, make("div", { class: "acts" }, again, pause)));

    function show(type, isPaused, someInterrupted) {
      const { succeeded = 0, failed = 0, timed_out = 0, interrupted = 0, cancelled = 0 } = type.outcomes;
      const wrong = [failed, timed_out, interrupted];
      const numbers = [type.pending - type.retrying, type.processing, type.retrying, succeeded, ...wrong, cancelled];
      numbers.forEach((n, i) => {
        setText(cells[i], n ? number(n) : "–");
        cells[i].className = !n ? "n none" : i >= 4 && i <= 6 ? "n wrong" : "n";
      });
      cells[6].hidden = !someInterrupted;
      [type.run_p50_seconds, type.run_p95_seconds, type.wait_p95_seconds].forEach((seconds, i) => {
        const none = seconds === null || seconds === undefined;
        setText(cells[8 + i], duration(seconds));
        cells[8 + i].className = none ? "n none first" : "n first";
      });
      paused = isPaused === true;
      tag.hidden = !paused;
      again.hidden = !maySubmit() || !known || !sum(wrong);
      pause.hidden = !maySubmit() || !known || isPaused === undefined;
      setText(pause, paused ? "Resume" : "Pause");
      setAttribute(pause, "aria-label", `${paused ? "Resume" : "Pause"} ${visible(name)}`);
    }

    return { element, show };
  }

  // ---- Questions and what follows

  let toastTimer = 0;
  function say(text) {
    clearTimeout(toastTimer);
    // Whatever is not in the open dialog, nobody can read.
    (document.querySelector("dialog[open]") ?? document.body).append($("toast"));
    $("toast").hidden = false;
    setText($("toast"), text);
    toastTimer = setTimeout(() => { $("toast").hidden = true; }, 6000);
  }

  function ask(title, text, yes, { danger = true } = {}) {
    setText($("ask-title"), title);
    setText($("ask-text"), text);
    setText($("ask-yes"), yes);
    $("ask-yes").className = danger ? "danger" : "primary";
    $("ask").returnValue = "no";
    $("ask").showModal();
    return new Promise((done) => {
      $("ask").addEventListener("close", () => done($("ask").returnValue === "yes"), { once: true });
    });
  }

  // Do it, say how it went, and show what it has changed: a job, the list, or nothing else (null).
  async function act(work, done, { job } = {}) {
    try {
      const text = done(await work());
      say(text);
    } catch (error) {
      say(error.message);
    }
    if (job) await Promise.all([list.refresh(job), detail.refresh(job)]);
    else if (job === undefined) await list.load();
  }

  async function cancelJob(id, type) {
    const text = `${visible(type)} ${id} ends as cancelled. A function that runs in a thread goes on to its end, unseen.`;
    if (await ask("Cancel this job?", text, "Cancel the job")) {
      await act(() => post(`jobs/${id}/cancel`), () => `${shortId(id)} is being cancelled`, { job: id });
    }
  }

  async function forgetJob(id, type) {
    const text = `The server forgets ${visible(type)} ${id} with its payload, result and error. This cannot be undone.`;
    if (!await ask("Forget this job?", text, "Forget the job")) return;
    await act(async () => {
      await request("DELETE", `jobs/${id}`);
      list.forget(id);
      detail.close();
    }, () => `${shortId(id)} is forgotten`, { job: null });
  }

  const rerunJob = (id) => act(() => post(`jobs/${id}/rerun`), (job) => `Runs again as ${shortId(job.id)}`, { job: id });
  const runNow = (id) => act(() => post(`jobs/${id}/run-now`), () => `${shortId(id)} is due now`, { job: id });

  async function counted(query) {
    return (await (await request("GET", `jobs/counts?${new URLSearchParams(query)}`)).json()).total;
  }

  // Run all failed jobs again, of one type or of all: as many as the question has said.
  async function rerunMany(type, note = "") {
    const left = (outcomes) => counted([["order", "ended"], ["rerun", "no"], ...outcomes.map((each) => ["outcome", each]), ...type ? [["type", type]] : []]);
    let found;
    let interrupted;
    try {
      [found, interrupted] = await Promise.all([left(UNSUCCESSFUL), left(["interrupted"])]);
    } catch (error) { return say(error.message); }
    const which = type ? ` ${visible(type)}` : "";
    if (found === 0) return say(`No failed${which} job is left to run again`);
    const text = `${count(found, `failed${which} job`)} ${found === 1 ? "runs" : "run"} once more, the oldest first. ${found === 1 ? "It" : "They"} must be safe to repeat.${interrupted ? ` ${number(interrupted)} of them ${interrupted === 1 ? "was" : "were"} interrupted, and may have done a part of the work.` : ""}${note}`;
    if (await ask(`Rerun ${count(found, `failed${which} job`)}?`, text, "Rerun", { danger: false })) {
      await act(() => post("jobs/rerun", { outcome: UNSUCCESSFUL, limit: found, ...type ? { type: [type] } : {} }), ({ accepted }) => `${count(accepted, "job")} ${accepted === 1 ? "runs" : "run"} again`);
    }
  }

  async function cancelMany(type, status, note) {
    let found;
    try {
      found = await counted([["status", status], ...type ? [["type", type]] : []]);
    } catch (error) { return say(error.message); }
    const which = `${word(status)}${type ? ` ${visible(type)}` : ""}`;
    if (found === 0) return say(`No ${which} job is left to cancel`);
    const more = status === "pending" ? "With them go those that wait for another attempt, and those that come in meanwhile." : "Functions that run in threads go on to their end, unseen.";
    if (await ask(`Cancel ${count(found, `${which} job`)}?`, `${found === 1 ? "It ends" : "They end"} as cancelled. ${more}${note}`, "Cancel the jobs")) {
      await act(() => post("jobs/cancel", { status: [status], ...type ? { type: [type] } : {} }), ({ accepted }) => `${count(accepted, "job")} cancelled`);
    }
  }

  const pauseType = (name, paused) => act(() => post(paused ? "pool/pause" : "pool/resume", { type: [name] }),
    ({ until }) => (paused ? `${visible(name)} is paused: its jobs wait${untilText(until)}` : `${visible(name)} goes on`));

  const untilText = (until) => (until === "restart" ? "; a restart resumes it" : "");

  const leavingText = (n) => `${number(n)} more ${n === 1 ? "ends with its job" : "end with their jobs"}`;

  async function setWorkers(workers) {
    await act(() => post("pool/workers", { workers }), (answer) => {
      Object.assign(state, { workers: answer.workers, leaving: answer.leaving }); // the next click counts from here
      redraw();
      return `${count(answer.workers, "worker")}${answer.leaving ? `; ${leavingText(answer.leaving)}` : ""}. A restart takes the number from the configuration`;
    });
  }

  $("fewer").addEventListener("click", () => setWorkers(state.workers - 1));
  $("more-workers").addEventListener("click", () => setWorkers(state.workers + 1));
  $("intake").addEventListener("click", async () => {
    const open = state.intake === "paused";
    if (!open && !await ask("Pause the intake?", "Clients that submit jobs are told to come back later. The jobs that are in are worked off.", "Pause the intake")) return;
    await act(() => post("pool/intake", { open }), () => (open ? "The intake is open" : "The intake is paused; a restart opens it"));
  });
  $("pause-all").addEventListener("click", async () => {
    const pause = $("pause-all").textContent === "Pause all";
    if (pause && !await ask("Pause all types?", "Running jobs go on. All others wait until their type is resumed.", "Pause all types")) return;
    await act(() => post(pause ? "pool/pause" : "pool/resume", { all: true }), ({ until }) => (pause ? `All types are paused: their jobs wait${untilText(until)}` : "All types go on"));
  });

  // ---- The list of jobs

  const list = makeList();

  function makeList() {
    const PAGE = 50;
    const VIEWS = {
      failed: { query: [["order", "ended"], ...UNSUCCESSFUL.map((each) => ["outcome", each])], when: "Ended", empty: "Nothing has failed.", outcomes: UNSUCCESSFUL, rerun: true },
      retrying: { query: [["order", "next"], ["waiting", "retrying"]], when: "Next attempt", empty: "Nothing waits for another attempt." },
      waiting: { query: [["order", "oldest"], ["status", "pending"]], when: "Submitted", empty: "Nothing waits." },
      running: { query: [["order", "oldest"], ["status", "processing"]], when: "Started", empty: "Nothing runs." },
      ended: { query: [["order", "newest"], ["status", "completed"]], when: "Ended", empty: "Nothing has ended yet.", outcomes: [...UNSUCCESSFUL, "succeeded", "cancelled"], rerun: true },
      all: { query: [["order", "newest"]], when: "Submitted", empty: "No jobs yet. A client submits them with POST /jobs." },
    };
    const rows = new Map(); // by id: {job, element}
    let order = []; // the ids, as they are shown
    let next = null; // the address of the next page
    let seen = null; // what the numbers of the types were when the list was asked for
    let loading = null;
    let loadedAt = 0;
    const watched = new Set(); // jobs that somebody has acted on, until they have ended
    let watchedAt = 0;
    const rightsNow = () => `${mayControl()} ${maySubmit()}`;
    let rights = ""; // those for which the rows have their buttons

    const view = () => $("filters").elements.view.value;
    const type = () => $("type").value;

    // What can change the list: a number that goes up with each job that would come on top, and
    // a text that changes with everything that can.
    function mark() {
      if (state.totals === undefined) { // the pool does not count them
        const { pending, waiting, busy, kept, dropped } = state;
        return { top: null, text: JSON.stringify([pending, waiting, busy, kept, dropped]) };
      }
      const types = Object.entries(state.types ?? {}).filter(([name]) => !type() || name === type()).map(([, each]) => each);
      const outcomes = VIEWS[view()].outcomes;
      const ended = outcomes ? sum(types.map((each) => sum(outcomes.map((outcome) => each.outcomes[outcome] ?? 0)))) : null;
      const top = outcomes ? ended : view() === "all" ? sum(types.map((each) => each.submitted)) : null;
      const text = JSON.stringify(outcomes ? ended : types.map((each) => [each.submitted, each.pending, each.processing, each.retrying, each.attempts_failed, each.outcomes]));
      return { top, text };
    }

    function address() {
      const query = new URLSearchParams([...VIEWS[view()].query, ["limit", PAGE]]);
      if (type()) query.set("type", type());
      if ($("since").value) query.set("since", new Date(now() - 1000 * $("since").value).toISOString());
      if (VIEWS[view()].rerun && !$("rerun").checked) query.set("rerun", "no");
      return `jobs?${query}`;
    }

    async function load(more = false) {
      if (state === null || link === "out") return;
      loading?.abort();
      const { signal } = (loading = new AbortController());
      const before = mark();
      try {
        const answer = await request("GET", more ? next : address(), { signal });
        const jobs = (await answer.json()).filter((job) => view() !== "waiting" || !isRetrying(job));
        loadedAt = performance.now();
        if (!more) { order = []; seen = before; }
        // The link is for the server's own root; the page may be below a proxy's path.
        next = /<[^>]*?(jobs\?[^>]*)>; rel="next"/.exec(answer.headers.get("Link") ?? "")?.[1] ?? null;
        for (const job of jobs) put(job);
        order = [...new Set([...order, ...jobs.map((job) => job.id)])];
        drawList();
      } catch (error) {
        if (error.name !== "AbortError" && link === "live") say(error.message);
      } finally {
        if (loading?.signal === signal) loading = null;
      }
    }

    // Show a job in its row; an unchanged one keeps its element, and so the focus.
    function put(job) {
      const row = rows.get(job.id);
      const text = JSON.stringify([job, view(), rights]);
      if (row?.text === text || row?.gone) return;
      const element = makeRow(job);
      if (row) {
        const focused = row.element.contains(document.activeElement);
        row.element.replaceWith(element);
        if (focused) element.querySelector(".link").focus();
      }
      rows.set(job.id, { job, element, text });
    }

    function drawList() {
      rights = rightsNow();
      for (const id of [...rows.keys()]) if (!order.includes(id)) { rows.delete(id); watched.delete(id); }
      arrange($("jobs"), order.map((id) => rows.get(id).element));
      const shape = VIEWS[view()];
      setText($("when"), shape.when);
      $("empty").hidden = order.length > 0;
      setText($("empty"), type() || $("since").value ? "No job is like that." : shape.empty);
      $("older").hidden = next === null;
      $("rerun-label").hidden = !shape.rerun;
      const bulk = { failed: "Rerun all…", waiting: "Cancel all…", running: "Cancel all…" }[view()];
      $("bulk").hidden = !bulk || !order.length || !(view() === "failed" ? maySubmit() : mayControl());
      setText($("bulk"), bulk ?? "");
      list.follow();
    }

    // Rows must not move under the reader's hand.
    const inUse = () => $("jobs").matches(":hover, :focus-within") || scrollY > 0 || document.querySelector("dialog[open]") !== null || order.length > PAGE;

    // Follow the state: load the list again, at most once a second, or say how much is new.
    function follow() {
      if (rights !== rightsNow()) {
        rights = rightsNow();
        order.forEach((id) => put(rows.get(id).job));
        drawList();
      }
      for (const id of order) tick(rows.get(id));
      if (performance.now() - watchedAt > 1000) watched.forEach(refresh);
      if (seen === null || loading !== null || link !== "live") return;
      const { top, text } = mark();
      const changed = text !== seen.text;
      if (changed && !inUse() && performance.now() - loadedAt > 1000) { load(); return; }
      const fresh = top === null ? 0 : top - seen.top;
      $("newer").hidden = !changed || !inUse();
      setText($("newer"), fresh > 0 ? `Show ${number(fresh)} newer` : "Show changes");
    }

    // Times that go on, and what the slots know of a running job.
    function tick({ job, element }) {
      if (job.status === "processing") {
        const slot = state.slots.find((each) => each.id === job.id);
        setText(element.querySelector(".ran"), duration(Math.max(0, (now() - Date.parse(job.started_at)) / 1000)));
        setText(element.querySelector(".live"), slot?.progress ? progressText(slot.progress) : "");
      } else if (job.status === "pending" && job.run_at) {
        setText(element.querySelector(".live"), due(job));
      }
    }

    function due(job) {
      const seconds = (Date.parse(job.run_at) - now()) / 1000;
      const when = seconds > 0 ? `in ${duration(seconds)}` : "now";
      return job.attempts ? `${count(job.attempts, "attempt")} so far, the next ${when}` : `begins ${when}`;
    }

    function makeRow(job) {
      const when = { failed: job.completed_at, ended: job.completed_at, running: job.started_at, retrying: job.run_at }[view()] ?? job.created_at;
      const error = job.error ?? job.last_error;
      const again = job.rerun_as && make("span", { class: "note" }, "run again as ", idButton(job.rerun_as, job.type));
      return make("tr", { role: "row" },
        make("td", { role: "cell", class: "time" }, make("time", { datetime: when, title: when }, clock(when))),
        make("td", { role: "cell", class: "type" }, foreign(job.type)),
        make("td", { role: "cell", class: "state" }, tagOf(job)),
        make("td", { role: "cell", class: "what" }, idButton(job.id, job.type), " ", make("span", { class: "note live" }), again,
          error && make("span", { class: "said text-only", dir: "auto" }, make("b", {}, errorText(error)[0]), ...errorText(error).slice(1).map((text) => `: ${text}`))),
        make("td", { role: "cell", class: "n ran" }, duration(job.duration)),
        make("td", { role: "cell", class: "act" }, make("div", { class: "acts" }, ...actionsOn(job))));
    }

    // Show what an action has done, in place; the row leaves with the next list.
    async function refresh(id) {
      if (!rows.has(id)) return;
      watchedAt = performance.now();
      try {
        const job = await (await request("GET", `jobs/${id}`)).json();
        if (job.status === "completed") watched.delete(id); else watched.add(id);
        if (rows.has(id)) put(job);
      } catch (error) {
        if (error.status === 404) forget(id);
      }
    }

    function forget(id) {
      const row = rows.get(id);
      watched.delete(id);
      if (!row || row.gone) return;
      row.gone = true;
      row.element.classList.add("gone");
      row.element.querySelector(".state").replaceChildren("forgotten");
      row.element.querySelector(".acts").replaceChildren();
      row.element.querySelector(".link").focus();
    }

    function offerTypes(names) {
      const options = [...$("type").options].map((option) => option.value);
      const wanted = ["", ...new Set([...names.filter((name) => name !== "(other)"), ...type() ? [type()] : []])];
      if (wanted.join("\n") === options.join("\n")) return;
      const chosen = type();
      $("type").replaceChildren(...wanted.map((name) => make("option", { value: name }, name ? visible(name) : "All types")));
      $("type").value = chosen;
    }

    function change() {
      order = [];
      writeUrl({});
      load();
    }

    function choose(name) {
      $("type").value = name;
      change();
      $("jobs-title").focus();
    }

    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("filters").addEventListener("change", change);
    $("newer").addEventListener("click", async () => { await load(); $("jobs-title").focus({ preventScroll: true }); });
    $("older").addEventListener("click", () => load(true));
    $("bulk").addEventListener("click", () => {
      const note = $("since").value ? " These are those of any time, whatever the list shows." : "";
      return view() === "failed" ? rerunMany(type(), note) : cancelMany(type(), view() === "running" ? "processing" : "pending", note);
    });

    return { load, follow, choose, refresh, forget, offerTypes, view, focusOn: (id) => rows.get(id)?.element.querySelector(".link").focus() };
  }

  function idButton(id, type) {
    return make("button", { type: "button", class: "link id", onclick: () => detail.open(id), "aria-label": `${shortId(id)}, ${visible(type)}` }, shortId(id));
  }

  const isRetrying = (job) => job.status === "pending" && job.attempts > 0 && job.run_at !== undefined;

  function tagOf(job) {
    const kind = job.outcome ?? (isRetrying(job) ? "retrying" : job.status);
    return make("span", { class: `tag ${kind}` }, word(kind));
  }

  function actionsOn(job) {
    if (!mayControl()) return [];
    const button = (label, onclick) => make("button", { type: "button", onclick, "aria-label": `${label} ${visible(job.type)} ${shortId(job.id)}` }, label);
    if (job.status !== "completed") {
      return [job.status === "pending" && job.run_at && maySubmit() ? button("Run now", () => runNow(job.id)) : null, button("Cancel", () => cancelJob(job.id, job.type))];
    }
    const again = job.outcome !== "succeeded" && !job.rerun_as && maySubmit();
    return [again ? button("Rerun", () => rerunJob(job.id)) : null, button("Forget", () => forgetJob(job.id, job.type))];
  }

  // ---- One job, in a dialog

  const detail = makeDetail();

  function makeDetail() {
    const MOST = 50_000; // characters of a payload or result that are shown
    const dialog = $("detail");
    let id = null;
    let job = null;
    let shownAt = 0;

    async function open(wanted) {
      id = wanted;
      await refresh(id);
      if (id !== wanted || job === null) return;
      if (!dialog.open) dialog.showModal();
      dialog.scrollTop = 0;
      writeUrl({ job: id });
    }

    function close() {
      if (dialog.open) dialog.close();
    }

    async function refresh(wanted) {
      if (wanted !== id) return;
      shownAt = performance.now();
      try {
        const text = await (await request("GET", `jobs/${wanted}`)).text();
        if (wanted !== id) return;
        job = JSON.parse(text);
        show(text);
      } catch (error) {
        job = null;
        if (error.status !== 401 && !dialog.open) say(error.message);
      }
    }

    // A job that has not ended may have changed.
    function follow() {
      if (dialog.open && job !== null && job.status !== "completed" && performance.now() - shownAt > 1000) refresh(id);
    }

    // What has not changed keeps its elements, and so what is selected in them and the focus.
    const parts = new Map();
    function part(key, data, build) {
      const text = JSON.stringify(data);
      if (parts.get(key)?.text !== text) parts.set(key, { text, element: make("div", {}, ...build()) });
      return parts.get(key).element;
    }

    function show(text) {
      // Numbers keep their digits, which a number of JavaScript may not have room for.
      const exact = JSON.rawJSON ? JSON.parse(text, (_, value, { source }) => (typeof value === "number" ? JSON.rawJSON(source) : value)) : job;
      const { payload, result, ...rest } = job;
      const hadFocus = $("detail-body").contains(document.activeElement);
      arrange($("detail-body"), [
        part("head", [job.id, job.type, tagOf(job).textContent], headPart),
        part("facts", rest, () => [...errorPart("Error", job.error), ...errorPart("Last error", job.last_error), ...progressPart(), make("h3", {}, "Timeline"), timeline(), ...factsPart()]),
        part("values", [job.id, payload, result], () => [...valuePart("Payload", exact.payload, "payload" in job), ...valuePart("Result", exact.result, "result" in job)]),
        part("lines", job.log ?? [], linesPart),
        part("actions", [rest, mayControl(), maySubmit()], () => [make("div", { class: "acts foot" }, ...actionsOn(job))]),
      ]);
      if (hadFocus && !$("detail-body").contains(document.activeElement)) $("detail-close").focus();
    }

    const headPart = () => [make("div", { class: "head" },
      make("div", {}, make("h2", { id: "detail-title" }, foreign(job.type), tagOf(job)), make("p", { class: "id" }, job.id)),
      make("button", { type: "button", class: "plain", onclick: copy }, "Copy id"),
      make("button", { type: "button", class: "plain icon", id: "detail-close", "aria-label": "Close", onclick: close }, make("span", { "aria-hidden": "true" }, "✕")))];

    function copy() {
      const copied = navigator.clipboard?.writeText(job.id) ?? Promise.reject(); // only over TLS, and from localhost
      copied.then(() => say("Copied"), () => say(job.id));
    }

    const block = (text, kind = "") => make("pre", { class: kind, tabindex: "0" }, visible(text));

    function errorPart(title, error) {
      return error ? [make("h3", {}, title), block(errorText(error).join(": "), "bad")] : [];
    }

    function progressPart() {
      const { progress } = job;
      if (!progress) return [];
      const bar = progress.total ? make("progress", { max: 1, value: Math.min(1, progress.done / progress.total), "aria-label": "Progress" }) : null;
      return [make("h3", {}, job.status === "completed" ? "Progress when it ended" : "Progress"), bar,
        make("p", {}, [amount(progress.done, progress.total), progress.message && visible(progress.message)].filter(Boolean).join(" · "))].filter(Boolean);
    }

    function timeline() {
      const step = (time, text, kind = "") => time && make("li", { class: kind }, make("time", { datetime: time, title: time }, EXACT.format(new Date(time))), make("span", {}, text));
      const after = (from, to) => ` after ${duration(Math.max(0, secondsBetween(from, to)))}`;
      const steps = [step(job.created_at, "submitted")];
      if (job.started_at) steps.push(step(job.started_at, job.attempts > 1 ? `attempt ${job.attempts} started` : `started${after(job.created_at, job.started_at)}`));
      if (job.completed_at) steps.push(step(job.completed_at, `${word(job.outcome)}${job.started_at ? ` after ${duration(job.duration)}` : ""}`, UNSUCCESSFUL.includes(job.outcome) ? "bad" : ""));
      if (job.run_at && job.status === "pending") steps.push(step(job.run_at, job.attempts ? `attempt ${job.attempts + 1} is due` : "is due", "later"));
      return make("ol", { class: "line" }, ...steps);
    }

    function factsPart() {
      const facts = [
        ["Attempts", job.attempts > 1 && number(job.attempts)],
        ["Interruptions", job.interruptions && number(job.interruptions)],
        ["Submitted by", job.submitted_by && foreign(job.submitted_by)],
        ["Reruns", job.rerun_of && idButton(job.rerun_of, "the job before it")],
        ["Run again as", job.rerun_as && idButton(job.rerun_as, job.type)],
        ["Trace", job.trace_id && make("span", { class: "id" }, job.trace_id)],
      ].filter(([, value]) => value);
      return facts.length ? [make("h3", {}, "Details"), make("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]))] : [];
    }

    function valuePart(title, value, there) {
      if (!there) return job.withheld && title === "Payload" ? [make("h3", {}, title), make("p", { class: "note" }, "Payloads, results and messages are kept from your role.")] : [];
      const text = JSON.stringify(value, null, 2);
      if (text.length <= MOST) return [make("h3", {}, title), block(text)];
      return [make("h3", {}, title), block(`${text.slice(0, MOST)}…`),
        make("p", { class: "note" }, `The first ${number(MOST)} of ${number(text.length)} characters. `, make("a", { href: `jobs/${job.id}`, target: "_blank", rel: "noopener" }, "All of it"))];
    }

    function linesPart() {
      return job.log?.length ? [make("h3", {}, "Log"), block(job.log.join("\n"))] : [];
    }

    dialog.addEventListener("close", () => {
      const gone = id;
      id = null;
      writeUrl({ job: null });
      if (document.activeElement === document.body) list.focusOn(gone);
    });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) close(); });

    return { open, close, refresh, follow };
  }

  // ---- The address: the filters and the open job are in it, behind the #, which no server sees

  function writeUrl({ job }) {
    const old = new URLSearchParams(location.hash.slice(1));
    const parts = { view: list.view() === "failed" ? "" : list.view(), type: $("type").value, since: $("since").value, rerun: $("rerun").checked ? "yes" : "", job: job === undefined ? old.get("job") : job };
    const query = new URLSearchParams(Object.entries(parts).filter(([, value]) => value));
    const address = location.pathname + (query.size ? `#${query}` : "");
    // Going back closes a job, on a phone by its own button.
    if (parts.job && !old.get("job")) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }

  function followUrl() {
    const query = new URLSearchParams(location.hash.slice(1));
    const radio = [...$("filters").elements.view].find((each) => each.value === query.get("view"));
    (radio ?? $("filters").elements.view[0]).checked = true;
    const type = query.get("type") ?? "";
    if (![...$("type").options].some((option) => option.value === type)) $("type").append(make("option", { value: type }, visible(type)));
    $("type").value = type;
    $("since").value = query.get("since") ?? "";
    $("rerun").checked = query.get("rerun") === "yes";
    const job = query.get("job");
    if (job) detail.open(job); else detail.close();
  }

  addEventListener("popstate", () => { if (link === "live") { followUrl(); list.load(); } });

  // ---- Signing in and out

  function signOut(message = "", byHost = false) {
    disconnect();
    detail.close();
    link = "out";
    me = null;
    state = null;
    $("main").hidden = $("sign-out").hidden = $("who").hidden = true;
    $("login").hidden = byHost;
    setText($("login-error"), message);
    hostDecides = byHost;
    drawStatus();
    $("token").focus();
  }

  $("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = $("token").value;
    $("token").value = "";
    $("sign-in").disabled = true;
    setText($("login-error"), "");
    try {
      const answer = await fetch("ui/session", { method: "POST", body: JSON.stringify({ token }), cache: "no-store" });
      if (answer.ok) { link = "new"; await connect(); return; }
      const detail = (await answer.json().catch(() => null))?.detail;
      setText($("login-error"), answer.status === 401 ? "This token is not valid here." : detail ?? `The server answers with ${answer.status}.`);
    } catch {
      setText($("login-error"), "The server does not answer.");
    } finally {
      $("sign-in").disabled = false;
      if (link === "out") $("token").focus();
    }
  });

  $("sign-out").addEventListener("click", async () => {
    try { await request("DELETE", "ui/session"); } catch (error) { return say(error.message); }
    signOut();
  });

  // ---- The rest of the head

  const THEMES = ["", "light", "dark"];
  function labelTheme() {
    const theme = keptTheme();
    const name = `Theme: ${theme || "as the system"}`;
    $("theme").setAttribute("aria-label", name);
    $("theme").title = name;
    setText($("theme-icon"), { "": "◐", light: "☀", dark: "☾" }[theme]);
  }
  $("theme").addEventListener("click", () => {
    const theme = THEMES[(THEMES.indexOf(keptTheme()) + 1) % THEMES.length];
    try { localStorage.setItem(THEME, theme); } catch { /* it holds until the page is closed */ }
    setTheme(theme);
    labelTheme();
  });
  labelTheme();

  $("skip").addEventListener("click", (event) => { event.preventDefault(); $("jobs-title").focus(); });
  setText($("host"), location.host);
  connect();
}
