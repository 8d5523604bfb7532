(() => {
  "use strict";
  const KEPT = 600, SHOWN_STEPS = 200, RECENT = 300;
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  let paused = false, history = {}, latest = null, hosts = new Map(), following = null, valuesAllowed = false;

  // ---- making things: text is only ever text

  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(name, value);
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };
  const draw = (tag, attributes = {}, ...children) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const number = (value, digits = 3) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (Math.abs(value) >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
    return String(Number(value.toPrecision(digits)));
  };
  const duration = (seconds) => {
    if (seconds === null || seconds === undefined) return "–";
    if (seconds === 0) return "0";
    if (seconds < 0.0009995) return `${number(seconds * 1e6)} µs`;
    if (seconds < 0.9995) return `${number(seconds * 1e3)} ms`;
    if (seconds < 120) return `${number(seconds)} s`;
    if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
    return `${number(seconds / 3600)} h`;
  };
  const bytes = (value) => value >= 2 ** 30 ? `${number(value / 2 ** 30)} GiB` : `${Math.round(value / 2 ** 20).toLocaleString("en")} MiB`;
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // ---- the numbers at the top

  const tile = (what, figure, unit, more, kind = "") => make("div", { class: "tile" },
    make("div", { class: "what" }, what),
    make("div", { class: `figure ${kind}` }, figure, make("small", {}, unit)),
    make("div", { class: "more", title: more }, more));

  const showTiles = (now) => {
    const all = now.hosts, ready = all.filter((host) => host.state === "ready").length, left = now.hosts_left_out;
    const slots = sum(Object.values(now.pools).map((pool) => pool.slots));
    const used = sum(Object.values(now.pools).map((pool) => pool.in_use));
    const waiting = sum(now.queues.map((queue) => queue.slots + queue.held));
    const oldest = Math.max(0, ...now.queues.map((queue) => queue.oldest));
    const points = Object.values(now.points);
    const failed = sum(Object.values(history).map((list) => sum(list.slice(-RECENT).map((point) => point[3]))));
    const minutes = Math.max(1, Math.round(Math.min(RECENT, Math.max(0, ...Object.values(history).map((list) => list.length))) / 60));
    const slow = points.filter((point) => point[5] !== null).sort((a, b) => b[1] - a[1])[0];
    const p50 = duration(slow?.[5]).split(" ");
    const troubled = all.length - ready;
    $("tiles").replaceChildren(
      tile("hosts", number(all.length + left), "", troubled ? `${troubled} of them not ready` : "all ready", troubled ? "warn" : ""),
      tile("slots in use", number(used), ` of ${number(slots)}`, slots ? `${Math.round(100 * used / slots)} %` : ""),
      tile("waiting", number(waiting), "", waiting ? `the oldest for ${duration(oldest)}` : "nobody", waiting ? "warn" : ""),
      tile("steps", number(sum(points.map((point) => point[1]))), " /s", `${number(sum(points.map((point) => point[2])))} episodes/s`),
      tile("step, p50", p50[0], ` ${p50[1] || ""}`, slow ? `p99 ${duration(slow[6])}` : "no steps now"),
      tile("failed", number(failed), "", minutes > 1 ? `in the last ${minutes} min` : "in the last minute", failed ? "bad" : "good"));
  };

  // ---- environments

  const chart = (kind, what, figure, unit, lines) => {
    const W = 300, H = 66, drawing = draw("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": `${what}: ${figure}${unit}`, height: H });
    const present = lines.flat().filter((value) => value !== null);
    if (present.length > 1) {
      const signed = Math.min(...present) < 0, top = Math.max(...present, signed ? -Infinity : 1e-9), low = signed ? Math.min(...present) : 0;
      const span = top - low || 1;
      lines.forEach((line, order) => {
        const step = W / (Math.min(KEPT / 5, Math.max(24, line.length)) - 1), from = W - (line.length - 1) * step, dots = [];
        line.forEach((value, index) => { if (value !== null) dots.push([from + index * step, H - 2 - (value - low) / span * (H - 6)]); });
        if (dots.length < 2) return;
        const path = dots.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
        if (order === 0) drawing.append(draw("polygon", { class: "fill", points: `${dots[0][0].toFixed(1)},${H} ${path} ${dots[dots.length - 1][0].toFixed(1)},${H}` }));
        drawing.append(draw("polyline", { class: order ? "line second" : "line", points: path }));
      });
    }
    drawing.append(draw("line", { class: "axis", x1: 0, x2: W, y1: H - 0.5, y2: H - 0.5 }));
    return make("div", { class: `chart ${kind}` }, make("div", { class: "what" }, what),
      make("div", { class: "figure" }, figure, make("small", {}, unit)), drawing);
  };

  const thinned = (list, column) => {  // the mean of every five seconds
    const found = [];
    for (let end = list.length; end > 0; end -= 5) {
      const part = list.slice(Math.max(0, end - 5), end).map((point) => point[column]).filter((value) => value !== null);
      found.unshift(part.length ? sum(part) / part.length : null);
    }
    return found;
  };
  const lastKnown = (values) => { for (let at = values.length - 1; at >= 0; at--) if (values[at] !== null) return values[at]; return null; };

  const showEnvironments = (now) => {
    const names = Object.keys(history).sort((a, b) => (now.points[b]?.[1] || 0) - (now.points[a]?.[1] || 0)).slice(0, 8).sort();
    $("environments").replaceChildren(...names.map((name) => {
      const list = history[name], point = list[list.length - 1], returns = thinned(list, 4);
      return make("section", { class: `card ${names.length > 1 ? "half" : ""}`, "aria-label": name },
        make("h2", {}, name, " ", make("small", {}, `${number(point[0])} live episodes, ${number(point[2])} episodes/s`)),
        make("div", { class: "environment" },
          chart("rate", "steps", number(point[1]), " /s", [thinned(list, 1)]),
          chart("reward", "return", number(lastKnown(returns)), " mean", [returns]),
          chart("latency", "time in a step", duration(point[5]), `  p99 ${duration(point[6])}`, [thinned(list, 6), thinned(list, 5)])));
    }));
    const chosen = $("which").value;
    const options = Object.keys(history).sort();
    if (options.join() !== [...$("which").options].map((option) => option.value).join())
      $("which").replaceChildren(...options.map((name) => make("option", { value: name }, name)));
    if (options.includes(chosen)) $("which").value = chosen;
  };

  // ---- hosts

  const slotBar = (host) => {
    const whole = Math.max(1, host.slots), used = 100 * host.in_use / whole, idle = 100 * host.idle / whole;
    return draw("svg", { class: "slots", viewBox: "0 0 100 12", preserveAspectRatio: "none", role: "img",
      "aria-label": `${host.in_use} in use, ${host.idle} idle, of ${host.slots}` },
      draw("rect", { class: "trough", width: 100, height: 12 }), draw("rect", { class: "idle", width: Math.min(100, used + idle), height: 12 }),
      draw("rect", { class: "used", width: Math.min(100, used), height: 12 }));
  };

  const showHosts = (now, elapsed) => {
    const rows = [];
    let pool = null;
    const seen = new Map();
    for (const host of now.hosts) {
      if (host.pool !== pool) {
        pool = host.pool;
        const of = now.pools[pool];
        rows.push(make("tr", { class: "pool" }, make("td", { colspan: 7 }, `${pool} · ${of.environments.join(", ")}`)));
      }
      const before = hosts.get(host.id), rates = before ? before.rates : [];
      const rate = (now, then) => now === null || then === null ? null : Math.max(0, now - then) / elapsed;
      if (before && elapsed > 0) rates.push([rate(host.steps, before.steps), rate(host.cpu, before.cpu)]);
      while (rates.length > 5) rates.shift();
      const mean = (column) => {
        const known = rates.map((each) => each[column]).filter((value) => value !== null);
        return known.length ? sum(known) / known.length : null;
      };
      seen.set(host.id, { steps: host.steps, cpu: host.cpu, rates });
      const lag = make("td", { class: `number ${host.lag > 0.1 ? "warn" : ""}` }, duration(host.lag));
      rows.push(make("tr", {},
        make("td", { title: `${host.id}, ${host.address}` }, host.name, host.state === "ready" ? null
          : make("span", { class: `pill ${host.state}` }, host.state === "silent" ? `silent for ${duration(host.silent)}` : host.state)),
        make("td", {}, slotBar(host)), make("td", { class: "number" }, `${number(host.in_use)} / ${number(host.slots)}`),
        make("td", { class: "number" }, number(mean(0))), lag, make("td", { class: "number" }, bytes(host.memory)),
        make("td", { class: "number" }, mean(1) === null ? "–" : mean(1).toFixed(2))));
    }
    hosts = seen;
    $("hosts").tBodies[0].replaceChildren(...rows);
    $("hosts-note").textContent = now.hosts_left_out ? `${now.hosts_left_out} more are not shown` : "";
  };

  const showQueue = (now) => {
    const parts = [];
    if (now.queues.length) {
      parts.push(make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "environment"), make("th", { class: "number" }, "slots"), make("th", { class: "number" }, "oldest"))),
        make("tbody", {}, ...now.queues.map((queue) => make("tr", {}, make("td", {}, queue.environment),
          make("td", { class: "number" }, number(queue.slots + queue.held)), make("td", { class: "number warn" }, duration(queue.oldest)))))));
    } else parts.push(make("p", { class: "calm" }, "Nobody waits."));
    if (now.tenants.length) {
      parts.push(make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "tenant"), make("th", { class: "number" }, "leased"), make("th", { class: "number" }, "waits"))),
        make("tbody", {}, ...now.tenants.slice(0, 20).map((tenant) => make("tr", {}, make("td", {}, tenant.tenant),
          make("td", { class: "number" }, number(tenant.leased) + (tenant.quota ? ` / ${number(tenant.quota)}` : "")),
          make("td", { class: "number" }, number(tenant.queued)))))));
    }
    $("queue").replaceChildren(...parts);
  };

  const showFailures = (now) => {
    const rows = now.failures.map((failure) => make("tr", {}, make("td", {}, `${duration(failure.ago)} ago`), make("td", {}, failure.reason),
      make("td", {}, failure.environment), make("td", {}, make("code", { title: failure.episode }, failure.episode.slice(0, 12)), ` step ${failure.index}, ${failure.host}`),
      make("td", { class: "soft" }, make("span", { class: "value" }, failure.message))));
    const body = $("failures").tBodies[0];
    body.replaceChildren(...rows);
    if (!rows.length) body.append(make("tr", {}, make("td", { class: "calm" }, "None.")));
    $("failures-note").textContent = rows.length ? "newest first" : "";
  };

  // ---- one episode

  const stop = (words) => {
    if (following) following.source.close();
    following = null;
    $("go").textContent = "Follow";
    $("go").classList.remove("on");
    if (words) $("follow-note").textContent = words;
  };
  const begin = () => {
    stop();
    const episode = $("episode").value.trim().toLowerCase();
    if (episode && !/^[0-9a-f]{32}$/.test(episode)) { $("follow-note").textContent = "an episode's id has 32 hexadecimal digits"; return; }
    if (!episode && !$("which").value) { $("follow-note").textContent = "there is no environment yet"; return; }
    const query = new URLSearchParams(episode ? { episode } : { environment: $("which").value });
    if ($("values").checked) query.set("values", "1");
    const source = new EventSource(`/follow?${query}`);
    following = { source, episode: "", total: 0, longest: 0, ended: 0 };
    $("go").textContent = "Stop";
    $("go").classList.add("on");
    $("follow-note").textContent = "waiting for a step …";
    $("episode-line").replaceChildren();
    $("steps").hidden = false;
    $("steps").tBodies[0].replaceChildren();
    source.addEventListener("steps", (event) => { if (!paused) showSteps(JSON.parse(event.data)); });
    source.onerror = () => { if (following && following.source === source) stop("the broker does not follow this any more"); };
  };

  const eventRow = (words) => make("tr", { class: "event" }, make("td", { colspan: 5 }, words));
  const showSteps = (told) => {
    const body = $("steps").tBodies[0], at = following;
    if (!at) return;
    if (told.episode !== at.episode) {
      if (at.episode) body.prepend(eventRow("another episode"));
      Object.assign(at, { episode: told.episode, total: 0, count: 0 });
    }
    if (told.skipped) body.prepend(eventRow(`${told.skipped} steps are left out`));
    for (const step of told.steps) {
      at.total += step.reward;
      at.count = step.index;
      at.longest = Math.max(at.longest, step.seconds);
      const width = at.longest ? Math.max(1, 64 * step.seconds / at.longest) : 1;
      body.prepend(make("tr", {}, make("td", { class: "number" }, step.index ? String(step.index) : "reset"),
        make("td", {}, draw("svg", { class: "meter", viewBox: "0 0 64 6", "aria-hidden": "true" }, draw("rect", { class: "trough", width: 64, height: 6 }), draw("rect", { width, height: 6 })), duration(step.seconds)),
        make("td", { class: "number" }, step.index ? number(step.reward) : ""),
        make("td", {}, make("code", { class: "value", dir: "auto" }, step.action)),
        make("td", {}, make("code", { class: "value", dir: "auto" }, step.observation),
          step.failure ? make("b", { class: "bad" }, step.failure) : null, step.end ? make("b", { class: "good" }, step.end) : null)));
    }
    if (told.over) { at.ended += 1; body.prepend(eventRow(`over after ${at.count || 0} steps, return ${number(at.total)} as far as it was seen`)); }
    while (body.rows.length > SHOWN_STEPS) body.deleteRow(-1);
    $("follow-note").textContent = "newest step first";
    const fact = (name, value) => make("span", {}, `${name} `, make("b", {}, value));
    $("episode-line").replaceChildren(fact("environment", told.environment), fact("episode", told.episode), fact("step", number(at.count || 0)), fact("return so far", number(at.total)), at.ended ? fact("episodes seen to their end", String(at.ended)) : "");
  };

  // ---- the picture, again and again

  let shownAt = 0;
  const show = (now) => {
    for (const [name, point] of Object.entries(now.points)) {
      const list = history[name] ||= [];
      list.push(point);
      while (list.length > KEPT) list.shift();
    }
    latest = now;
    if (!paused) paint();
  };
  const paint = () => {
    const at = performance.now(), elapsed = shownAt ? (at - shownAt) / 1000 : 0;
    shownAt = at;
    showTiles(latest); showEnvironments(latest); showHosts(latest, elapsed); showQueue(latest); showFailures(latest);
    $("lamp").className = `lamp ${latest.complete ? "on" : "waits"}`;
    $("status").textContent = `${latest.complete ? "every host is heard" : "not every host is heard yet"}; the broker has run for ${duration(latest.uptime)}`;
  };
  const connect = () => {
    const source = new EventSource("/events");
    source.addEventListener("beginning", (event) => {
      const told = JSON.parse(event.data);
      history = told.history; hosts = new Map(); shownAt = 0;
      valuesAllowed = told.values;
      $("place").textContent = told.place;
      $("values").disabled = !valuesAllowed;
      $("values").parentElement.title = valuesAllowed ? "" : "the broker's page_values setting does not allow it";
    });
    source.addEventListener("now", (event) => show(JSON.parse(event.data)));
    source.onerror = () => {
      $("lamp").className = "lamp off";
      $("status").textContent = "the broker does not answer; trying again …";
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
    };
  };

  const dark = () => document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const actions = {
    t: () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; },
    p: () => { paused = !paused; $("pause").textContent = paused ? "Go on" : "Pause"; $("pause").setAttribute("aria-pressed", paused); if (!paused && latest) paint(); },
    f: () => following ? stop("stopped") : begin(),
    v: () => { if (valuesAllowed) { $("values").checked = !$("values").checked; if (following) begin(); } },
  };
  $("theme").addEventListener("click", actions.t);
  $("pause").addEventListener("click", actions.p);
  $("values").addEventListener("change", () => { if (following) begin(); });
  $("follow").addEventListener("submit", (event) => { event.preventDefault(); actions.f(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), select")) return;
    const act = actions[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  connect();
})();
