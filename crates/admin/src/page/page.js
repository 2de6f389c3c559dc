// Draws what `watch` tells. Text from outside only ever becomes text: nothing here writes HTML.
"use strict";
(() => {
  const { base, rights } = document.body.dataset;
  const may = new Set(rights.split(" "));
  if (!may.has("read")) return withoutSight();

  const streams = new Map();
  const switches = new Map();
  const drills = new Map();
  let timeline = [];
  /** Which of the whole states was the last: what was asked for before it is of no use any more. */
  let generation = 0;
  let alarms = [];
  let closing = false;
  /** What our clock has to be corrected by to be the server's, in milliseconds. */
  let skew = 0;
  let heard = 0;
  let source = null;
  let retry = 1000;
  /** Nothing was heard for as long: what is seen may be old. Something comes at least every 5 s. */
  const OLD = 12000;
  const WINDOW = 300;

  const now = () => Date.now() + skew;
  const at = (text) => Date.parse(text);

  // --- small things -------------------------------------------------------------------------------------------

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === false || value == null) continue;
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }

  /** Writes only what changed: focus, selection and screen readers stay where they are. */
  function put(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function fill(node, key, children) {
    if (node.dataset.key === key) return;
    node.dataset.key = key;
    node.replaceChildren(...children());
  }

  const number = new Intl.NumberFormat("en");

  function duration(seconds) {
    const s = Math.max(0, seconds);
    if (s < 10) return `${s.toFixed(1)} s`;
    if (s < 120) return `${Math.round(s)} s`;
    if (s < 7200) return `${Math.round(s / 60)} min`;
    if (s < 172800) return `${Math.round(s / 3600)} h`;
    return `${Math.round(s / 86400)} days`;
  }

  function latency(ms) {
    if (ms < 1) return `${Math.round(ms * 1000)} µs`;
    return ms < 1000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1000).toFixed(2)} s`;
  }

  function clock(text) {
    const when = new Date(text);
    const today = new Date(now()).toDateString() === when.toDateString();
    const time = when.toLocaleTimeString("en-GB");
    return today ? time : `${when.toLocaleDateString("en-CA")} ${time}`;
  }

  const time = (text) => el("time", { datetime: text, title: text }, clock(text));

  // --- what is told -------------------------------------------------------------------------------------------

  function connect() {
    source = new EventSource(`${base}/watch`);
    source.addEventListener("state", (e) => told(JSON.parse(e.data), true));
    source.addEventListener("change", (e) => told(JSON.parse(e.data), false));
    source.addEventListener("alive", () => listen());
    for (const name of ["dropped", "end"]) source.addEventListener(name, () => again());
    source.onerror = () => again();
  }

  /** The browser gives up on some failures; we do not. */
  function again() {
    if (!source) return;
    source.close();
    source = null;
    tick();
    setTimeout(connect, retry);
    retry = Math.min(retry * 2, 10000);
    // A session that is over is no outage: the form says so.
    fetch(`${base}/status`, { method: "HEAD" })
      .then((answer) => answer.status === 401 && location.reload())
      .catch(() => {});
  }

  function listen() {
    heard = performance.now();
    retry = 1000;
  }

  function told(message, whole) {
    listen();
    skew = at(message.at) - Date.now();
    closing = message.closing;
    alarms = message.alarms;
    if (whole) {
      const gone = new Set(streams.keys());
      for (const stream of message.streams) gone.delete(stream.name);
      gone.forEach((name) => streams.delete(name));
      switches.clear();
      drills.clear();
      for (const drill of message.drills ?? []) drills.set(drill.stream, drill);
      timeline = [];
      for (const stream of streams.values()) stream.spans = [];
    }
    for (const stream of message.streams) keep(stream, at(message.at), whole);
    for (const s of message.switches) {
      const learnt = at(message.at);
      switches.set(s.name, { ...s, goodAt: s.age_seconds == null ? null : learnt - s.age_seconds * 1000,
        nextAt: s.next_poll_seconds == null ? null : learnt + s.next_poll_seconds * 1000 });
    }
    for (const [name, age] of Object.entries(message.ages ?? {})) {
      const s = switches.get(name);
      if (s) s.goodAt = at(message.at) - age * 1000;
    }
    for (const [name, left] of Object.entries(message.next_polls ?? {})) {
      const s = switches.get(name);
      if (s) s.nextAt = at(message.at) + left * 1000;
    }
    for (const event of whole ? message.recent ?? [] : message.events) happened(event, whole);
    trim();
    draw();
    if (whole) readPast(++generation);
  }

  /** The last 200 transitions, and what happened between them. */
  function trim() {
    let transitions = 0;
    for (let i = timeline.length - 1; i >= 0; i--) {
      if (timeline[i].kind === "transition" && ++transitions === 200) {
        timeline = timeline.slice(i);
        break;
      }
    }
    timeline = timeline.slice(-1000);
  }

  const SHOWN = new Set(["transition", "override", "drill", "reading", "started", "lost"]);
  const key = (event) => `${event.time} ${event.seq} ${event.kind} ${event.stream ?? event.switch ?? ""}`;

  /** What happened before this process, or longer ago than the watch tells. An older tidegate has none of it. */
  async function readPast(asked) {
    const answer = await fetch(`${base}/history?limit=1000`).catch(() => null);
    const past = answer?.ok ? await answer.json().catch(() => null) : null;
    if (!past || asked !== generation) return;
    const known = new Set(timeline.map(key));
    timeline.push(...past.entries.filter((event) => SHOWN.has(event.kind) && !known.has(key(event))));
    timeline.sort((a, b) => at(a.time) - at(b.time) || a.seq - b.seq);
    trim();
    draw();
  }

  function keep(stream, when, whole) {
    const old = streams.get(stream.name) ?? { points: [], spans: [], view: null };
    const next = { ...stream, points: old.points, spans: old.spans, view: old.view, heardAt: when };
    streams.set(stream.name, next);
    sample(next, when);
    const shaded = isHeld(stream.state);
    const last = next.spans.at(-1);
    if (whole && shaded) next.spans.push({ from: at(stream.last_transition), to: null });
    else if (shaded && (!last || last.to != null)) next.spans.push({ from: at(stream.last_transition), to: null });
    else if (!shaded && last && last.to == null) last.to = at(stream.last_transition);
  }

  const isHeld = (state) => state === "pausing" || state === "paused" || state === "hiatus";

  function sample(stream, when) {
    const last = stream.points.at(-1);
    if (last && when - last.when < 500) return;
    const rate = last ? Math.max(0, ((stream.events - last.events) * 1000) / (when - last.when)) : 0;
    stream.points.push({ when, events: stream.events, rate });
    while (stream.points.length && stream.points[0].when < when - WINDOW * 1000) stream.points.shift();
  }

  function happened(event, past) {
    if (SHOWN.has(event.kind)) timeline.push(event);
    if (event.kind === "drill") drills.set(event.stream, { at: event.time, told: event.reason });
    if (event.kind !== "transition") return;
    const stream = streams.get(event.stream);
    if (past && stream) {
      // The pauses before we looked, for the shading.
      if (isHeld(event.to) && !isHeld(event.from)) stream.spans.push({ from: at(event.time), to: null });
      if (!isHeld(event.to) && isHeld(event.from)) {
        const open = stream.spans.findLast((s) => s.to == null);
        if (open) open.to = at(event.time);
      }
    }
    if (!past) announce(`${event.stream} is ${event.to}${event.reason ? `: ${event.reason}` : ""}`);
  }

  let saying = null;
  const toSay = [];
  /** Several changes at once are one announcement, and a storm of them is a number. */
  function announce(sentence) {
    toSay.push(sentence);
    saying ??= setTimeout(() => {
      put(announcer, toSay.length > 3 ? `${toSay.length} changes, the last: ${toSay.at(-1)}` : toSay.join(". "));
      toSay.length = 0;
      saying = null;
    }, 500);
  }

  // --- the frame ----------------------------------------------------------------------------------------------

  const announcer = el("p", { class: "unseen", "aria-live": "polite" });
  const live = document.getElementById("live");
  const trouble = el("div", { class: "trouble", role: "alert" });
  const summary = el("p", { class: "summary" });
  const filter = el("input", { type: "search", id: "filter", placeholder: "name", oninput: () => draw() });
  const onlyHeld = el("input", { type: "checkbox", id: "held", onchange: () => draw() });
  const list = el("ul", { class: "cards" });
  const switchList = el("ul", { class: "cards small" });
  const past = el("ol", { class: "timeline", reversed: true, tabindex: 0, "aria-labelledby": "h-timeline" });
  const bar = el("div", { class: "bar" },
    el("label", { for: "filter" }, "Show"), filter,
    el("label", { for: "held" }, onlyHeld, " only what is held"));
  const all = el("div", { class: "actions" });
  if (may.has("pause")) all.append(button("Pause all…", "pause", () => ask("pause", null)));
  if (may.has("resume")) all.append(button("Resume all…", "resume", () => ask("resume", null)));

  function frame() {
    const main = document.getElementById("main");
    main.replaceChildren(
      trouble,
      summary,
      el("section", { "aria-labelledby": "h-streams" },
        el("div", { class: "head" }, el("h2", { id: "h-streams" }, "Streams and gates"), all), bar, list),
      el("section", { "aria-labelledby": "h-switches" }, el("h2", { id: "h-switches" }, "Switches"), switchList),
      el("section", { "aria-labelledby": "h-timeline" }, el("h2", { id: "h-timeline" }, "What happened"), past),
      announcer,
    );
  }

  function button(text, kind, onclick, label) {
    return el("button", { type: "button", class: kind, "aria-label": label, onclick }, text);
  }

  // --- drawing ------------------------------------------------------------------------------------------------

  let framed = false;
  let drawn = null;
  function draw() {
    drawn ??= requestAnimationFrame(() => {
      drawn = null;
      if (!framed) frame();
      framed = true;
      drawSummary();
      drawStreams();
      drawSwitches();
      drawTimeline();
      tick();
    });
  }

  function drawSummary() {
    const count = (test) => [...streams.values()].filter(test).length;
    const words = [];
    for (const state of ["failed", "pausing", "paused", "hiatus", "draining", "starting", "running", "stopped"]) {
      const n = count((s) => s.state === state);
      if (n) words.push(`${n} ${state}`);
    }
    put(summary, words.join(" · ") || "There is no stream and no gate.");
    const list = [...alarms];
    if (closing) list.unshift("The process is stopping: nothing that is held now will move again in it.");
    fill(trouble, list.join("\n"), () => list.map((text) => el("p", {}, text)));
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const stream = streams.get(entry.target.dataset.name);
      if (!stream?.view) continue;
      stream.view.seen = entry.isIntersecting;
      entry.isIntersecting ? plot(stream) : unplot(stream);
    }
  }, { rootMargin: "200px" });

  function drawStreams() {
    const wanted = filter.value.trim().toLowerCase();
    for (const stream of streams.values()) {
      stream.view ??= card(stream);
      const view = stream.view;
      view.node.hidden = !stream.name.toLowerCase().includes(wanted)
        || (onlyHeld.checked && stream.holds.length === 0 && !isHeld(stream.state));
      drawStream(stream, view);
      if (view.node.parentNode !== list) list.append(view.node);
      if (view.seen) plot(stream);
    }
    for (const node of [...list.children]) {
      if (!streams.has(node.dataset.name)) {
        near.unobserve(node);
        node.remove();
      }
    }
  }

  function card(stream) {
    const view = { seen: false, chart: null };
    view.state = el("span", { class: "state" });
    view.flight = el("dd");
    view.held = el("dd");
    view.waiting = el("dd");
    view.drill = el("p", { class: "drill" });
    view.rate = el("dd");
    view.total = el("dd");
    view.error = el("p", { class: "wrong" });
    view.running = el("ul", { class: "running" });
    view.holds = el("ul", { class: "holds" });
    view.resume = el("p", { class: "forecast" });
    view.chartBox = el("div", { class: "chart", role: "img" });
    view.actions = el("div", { class: "actions" });
    const { name } = stream;
    if (may.has("pause")) view.actions.append(button("Pause…", "pause", () => ask("pause", name), `Pause ${name}`));
    if (may.has("resume")) {
      view.actions.append(button("Resume…", "resume", () => ask("resume", name), `Resume ${name}`));
    }
    const pair = (word, value) => el("div", {}, el("dt", {}, word), value);
    view.node = el("li", { class: "card", "data-name": name },
      el("div", { class: "head" }, el("h3", {}, name, " ", el("small", {}, stream.kind)), view.state),
      el("dl", {}, pair("In flight", view.flight),
        stream.kind === "gate" ? pair("Waiting", view.waiting) : pair("Held", view.held), pair("Rate", view.rate),
        pair(stream.kind === "gate" ? "Requests" : "Events", view.total)),
      view.error, view.chartBox, view.running, view.holds, view.resume, view.drill, view.actions);
    near.observe(view.node);
    return view;
  }

  const since = (stream) => (now() - stream.heardAt) / 1000;

  function drawStream(stream, view) {
    put(view.state, stream.state);
    view.state.className = `state s-${stream.state}`;
    view.node.classList.toggle("is-held", stream.holds.length > 0 || isHeld(stream.state));
    put(view.total, number.format(stream.events)
      + (stream.dead_letters ? ` (${number.format(stream.dead_letters)} to the dead letter)` : ""));
    const rate = stream.points.at(-1)?.rate ?? 0;
    put(view.rate, `${number.format(Math.round(rate))}/s`);
    view.chartBox.setAttribute("aria-label",
      `Events per second in the last five minutes; now ${Math.round(rate)}, ${stream.state}`);
    const error = [stream.error, stream.attempts ? `tried ${stream.attempts} times` : null].filter(Boolean).join("; ");
    put(view.error, error);
    fill(view.running, JSON.stringify(stream.running), () => stream.running.slice(0, 5).map((work) =>
      el("li", {}, `${work.name}, for `, el("span", { "data-from": stream.heardAt - work.age_seconds * 1000 }))));
    fill(view.holds, JSON.stringify([stream.holds, stream.set_aside]), () => [
      ...stream.holds.map((hold) => holdItem(stream, hold, false)),
      ...stream.set_aside.map((hold) => holdItem(stream, hold, true)),
    ]);
    put(view.resume, forecast(stream));
    ages(stream, view);
  }

  function ages(stream, view) {
    const oldest = stream.running[0];
    put(view.flight, number.format(stream.in_flight)
      + (stream.in_flight && oldest ? `, oldest ${duration(oldest.age_seconds + since(stream))}` : "")
      + (stream.upgraded ? `, ${number.format(stream.upgraded)} upgraded` : ""));
    put(view.waiting, number.format(stream.waiting));
    let held = number.format(stream.held);
    if (stream.held_oldest_seconds != null) held += `, oldest ${duration(stream.held_oldest_seconds + since(stream))}`;
    if (stream.lease_left_seconds != null) {
      const left = stream.lease_left_seconds - since(stream);
      held += left > 0 ? `, lease for ${duration(left)}` : ", lease over";
    }
    if (stream.parked) held += ", given back to the source";
    put(view.held, held);
    const drill = drills.get(stream.name);
    put(view.drill, drill ? `Last drill ${duration((now() - at(drill.at)) / 1000)} ago: ${drill.told}` : "Never drilled");
    view.drill.classList.toggle("bad", drill != null && drill.told !== "passed" && drill.told !== "live, passed");
  }

  function holdItem(stream, hold, aside) {
    const item = el("li", {}, el("strong", {}, hold.controller), aside ? " (set aside)" : "",
      hold.reason ? `: ${hold.reason}` : "");
    const more = el("span", { class: "who" });
    if (hold.by) more.append(` by ${hold.by}`);
    if (hold.actor) more.append(` as ${hold.actor}`);
    more.append(", since ", time(hold.since));
    more.append(...(hold.until ? [", until ", time(hold.until)] : [", no end"]));
    item.append(more);
    if (!aside && may.has("override") && hold.controller.startsWith("switch:")) {
      item.append(" ", button("Set aside…", "quiet", () => ask("override", stream.name, hold.controller),
        `Set aside the hold of ${hold.controller} on ${stream.name}`));
    }
    return item;
  }

  /** What a resume would do now. */
  function forecast(stream) {
    if (stream.holds.length === 0) return "";
    const others = stream.holds.filter((hold) => hold.controller !== "api").map((hold) => hold.controller);
    const api = others.length < stream.holds.length;
    if (others.length) {
      return api
        ? `A resume would release the hold of api; ${others.join(" and ")} would still hold.`
        : `A resume would change nothing: ${others.join(" and ")} holds.`;
    }
    if (stream.state === "hiatus") return "A resume would turn health back to 200.";
    return stream.held ? `A resume would let the ${number.format(stream.held)} held events go first.`
      : "A resume would let the next event go at once.";
  }

  function drawSwitches() {
    const names = [...switches.keys()];
    fill(switchList, names.join("\n"), () => names.map((name) => {
      const s = switches.get(name);
      s.view = null;
      return el("li", { class: "card", "data-name": name });
    }));
    for (const node of switchList.children) {
      const s = switches.get(node.dataset.name);
      fill(node, JSON.stringify([s.reading, s.version, s.error, s.warnings, s.stale, s.settled, s.written]), () => [
        el("div", { class: "head" }, el("h3", {}, s.name, " ", el("small", {}, s.provider)),
          el("span", { class: `state r-${s.reading}` }, s.reading)),
        el("dl", {},
          el("div", {}, el("dt", {}, "Version"), el("dd", {}, s.version ?? "none yet")),
          el("div", {}, el("dt", {}, "Last good reading"), el("dd", { class: "age" })),
          el("div", {}, el("dt", {}, "Next poll"), el("dd", { class: "next" })),
          el("div", {}, el("dt", {}, "Holds"), el("dd", {}, s.streams.join(", ") || "nothing"))),
        ...[s.error, s.stale ? "The last good reading is older than max_stale." : null].filter(Boolean)
          .map((text) => el("p", { class: "wrong" }, text)),
        ...s.warnings.map((text) => el("p", { class: "warning" }, text)),
      ]);
    }
  }

  function drawTimeline() {
    const last = timeline.at(-1);
    fill(past, last ? `${timeline.length} ${key(timeline[0])} ${key(last)}` : "", () => timeline.slice().reverse().map((event) => {
      const item = el("li", {}, time(event.time), " ", el("strong", {}, event.stream ?? event.switch ?? "tidegate"), " ");
      let who = event.controller;
      switch (event.kind) {
        case "transition":
          item.append(`${event.from} → `, el("span", { class: `state s-${event.to}` }, event.to));
          break;
        case "override":
          item.append(`${event.controller} set aside`);
          who = null;
          break;
        case "reading":
          item.append(`reads ${event.version ? `version ${event.version}` : "no version"}`);
          who = null;
          break;
        default: item.append(event.kind);
      }
      const told = [who, event.reason, event.by && `by ${event.by}`, event.actor && `as ${event.actor}`]
        .filter(Boolean).join(", ");
      if (told) item.append(" ", el("span", { class: "who" }, told));
      if (event.flip_latency_ms != null) {
        item.append(" ", el("span", { class: "latency", title: "from the reading or the call to the proven state" },
          latency(event.flip_latency_ms)));
      }
      if (event.store_latency_ms != null) {
        item.append(" ", el("span", { class: "latency", title: "from the store's own time to the proven state" },
          `${latency(event.store_latency_ms)} from the store`));
      }
      return item;
    }));
  }

  /** What grows by itself, once a second. */
  function tick() {
    const silent = performance.now() - heard;
    const connected = source?.readyState === EventSource.OPEN && heard > 0 && silent < OLD;
    document.body.classList.toggle("old", !connected);
    put(live, connected ? "live" : heard
      ? `not live: what you see is ${duration(silent / 1000)} old; trying again` : "connecting");
    for (const stream of streams.values()) {
      if (connected && now() - (stream.points.at(-1)?.when ?? 0) > 1500) sample(stream, now());
      if (!stream.view?.seen) continue;
      put(stream.view.rate, `${number.format(Math.round(stream.points.at(-1)?.rate ?? 0))}/s`);
      ages(stream, stream.view);
      plot(stream);
      for (const node of stream.view.running.querySelectorAll("[data-from]")) {
        put(node, duration((now() - Number(node.dataset.from)) / 1000));
      }
    }
    for (const node of switchList.children) {
      const s = switches.get(node.dataset.name);
      const age = node.querySelector(".age");
      if (!s || !age) continue;
      put(age, s.goodAt == null ? "none yet" : `${duration((now() - s.goodAt) / 1000)} ago`);
      put(node.querySelector(".next"), s.nextAt == null ? "not known"
        : s.nextAt > now() ? `in ${duration((s.nextAt - now()) / 1000)}` : "now");
    }
  }

  // --- the chart ----------------------------------------------------------------------------------------------

  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => streams.forEach((stream) => {
    if (stream.view?.chart) { unplot(stream); plot(stream); }
  }));
  const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

  function plot(stream) {
    const { view } = stream;
    const width = view.chartBox.clientWidth;
    if (!width) return;
    const end = now() / 1000;
    const data = [stream.points.map((p) => p.when / 1000), stream.points.map((p) => p.rate)];
    if (!view.chart) {
      const ink = colour("--muted");
      const axis = { stroke: ink, grid: { show: false }, ticks: { show: false }, font: "11px system-ui" };
      view.chart = new uPlot({
        width, height: 90, legend: { show: false }, cursor: { show: false }, padding: [6, 4, 0, 0],
        scales: {
          x: { range: () => [now() / 1000 - WINDOW, now() / 1000] },
          y: { range: (_, low, high) => [0, Math.max(1, high * 1.1 || 1)] },
        },
        axes: [{ ...axis, size: 22, space: 90, values: (_, at) => at.map((s) => new Date(s * 1000).toLocaleTimeString("en-GB")) }, { ...axis, size: 46, space: 30,
          values: (_, values) => values.map((v) => (v >= 1000 ? `${v / 1000}k` : `${v}`)) }],
        series: [{}, { stroke: colour("--accent"), width: 1.5, points: { show: false } }],
        hooks: { drawClear: [(chart) => shade(chart, stream.name)] },
      }, data, view.chartBox);
      return;
    }
    if (view.chart.width !== width) view.chart.setSize({ width, height: 90 });
    view.chart.setData(data, false);
    view.chart.setScale("x", { min: end - WINDOW, max: end });
  }

  function unplot(stream) {
    stream.view.chart?.destroy();
    stream.view.chart = null;
  }

  function shade(chart, name) {
    const stream = streams.get(name);
    if (!stream) return;
    const { left, top, width, height } = chart.bbox;
    chart.ctx.save();
    chart.ctx.fillStyle = colour("--shade");
    for (const span of stream.spans) {
      const x = (when) => Math.min(left + width, Math.max(left, chart.valToPos(when / 1000, "x", true)));
      const from = x(span.from);
      const to = span.to == null ? left + width : x(span.to);
      if (to > from) chart.ctx.fillRect(from, top, to - from, height);
    }
    chart.ctx.restore();
    stream.spans = stream.spans.filter((s) => s.to == null || s.to > now() - WINDOW * 1000).slice(-500);
  }

  // --- acting -------------------------------------------------------------------------------------------------

  const ALL = "all streams";

  function ask(what, name, controller) {
    const many = what === "resume" && name == null && streams.size > 1;
    const words = {
      pause: name ? `Pause ${name}` : `Pause all ${streams.size} streams and gates`,
      resume: name ? `Resume ${name}` : `Resume all ${streams.size} streams and gates`,
      override: `Set aside the hold of ${controller} on ${name}`,
    };
    const reason = el("input", { id: "reason", required: true, maxlength: 256, autocomplete: "off" });
    const until = el("select", { id: "until" }, ...[["", "no end"], ["15", "15 minutes"], ["60", "1 hour"],
      ["240", "4 hours"], ["at", "at a time…"]].map(([value, text]) => el("option", { value }, text)));
    const when = el("input", { id: "when", type: "datetime-local", hidden: true, "aria-label": "Until when" });
    until.addEventListener("change", () => {
      when.hidden = until.value !== "at";
      when.required = !when.hidden;
    });
    const confirm = el("input", { id: "confirm", required: true, autocomplete: "off" });
    const answer = el("div", { class: "answer", role: "alert" });
    const go = el("button", { class: what === "pause" ? "pause" : "resume" }, words[what]);
    const form = el("form", { method: "dialog" }, el("h2", { id: "ask" }, words[what]));
    if (what === "override") {
      form.append(el("p", {}, "It counts for nothing until the switch's secret has a new version. It is audited, "
        + "and an alarm to everybody."));
    }
    form.append(el("label", { for: "reason" }, "Reason"), reason);
    if (what === "pause") form.append(el("label", { for: "until" }, "It ends"), until, when);
    if (many) {
      form.append(el("label", { for: "confirm" }, `This resumes ${streams.size} streams and gates. Type “${ALL}”.`),
        confirm);
    }
    const cancel = button("Cancel", "quiet", () => dialog.close());
    form.append(answer, el("div", { class: "actions" }, go, cancel));
    const dialog = el("dialog", { "aria-labelledby": "ask" }, form);
    const opener = document.activeElement;
    dialog.addEventListener("close", () => {
      dialog.remove();
      opener?.focus();
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      if (many && confirm.value.trim().toLowerCase() !== ALL) {
        answer.replaceChildren(el("p", { class: "wrong" }, `Type “${ALL}” to resume them.`));
        confirm.focus();
        return;
      }
      const body = { reason: reason.value };
      if (what === "override") body.controller = controller;
      if (what === "pause" && until.value === "at") body.until = new Date(when.value).toISOString();
      else if (what === "pause" && until.value) body.until = new Date(now() + until.value * 60000).toISOString();
      go.disabled = true;
      try {
        const one = name == null ? "" : `/streams/${encodeURIComponent(name)}`;
        const response = await fetch(`${base}${one}/${what}`, {
          method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
        });
        const said = await response.json();
        if (response.ok) return dialog.close();
        explain(answer, response.status, said);
        if (response.status === 409 && what === "resume") {
          put(cancel, "Close");
          go.hidden = true;
        }
      } catch {
        answer.replaceChildren(el("p", { class: "wrong" },
          "No answer: whether it was done is not known. What you see below the form will tell when it is live again."));
      } finally {
        go.disabled = false;
      }
    });
    document.body.append(dialog);
    dialog.showModal();
    reason.focus();
  }

  /** A 409 is no failure: it says who still holds, and what would end it. */
  function explain(answer, status, said) {
    if (!said.holds) {
      answer.replaceChildren(el("p", { class: "wrong" }, said.error ?? `The answer was ${status}.`));
      return;
    }
    const advice = (controller) => {
      if (controller === "stop") return "The process is stopping; it will not move again.";
      const name = controller.replace(/^switch:/, "");
      return `Set the secret of switch “${name}” to false. If its store is lost, set its hold aside.`;
    };
    const controllers = [...new Set(said.holds.map((hold) => hold.controller))];
    answer.replaceChildren(
      el("p", {}, "The hold of api is released. These still hold:"),
      el("ul", {}, ...said.holds.slice(0, 50).map((hold) => el("li", {}, `${hold.stream}: `,
        el("strong", {}, hold.controller), hold.reason ? `, ${hold.reason}` : "", ", since ", time(hold.since)))),
      ...controllers.map((controller) => el("p", {}, advice(controller))),
    );
  }

  function withoutSight() {
    document.getElementById("live").textContent = "";
  }

  connect();
  setInterval(tick, 1000);
})();
