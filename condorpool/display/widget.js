// The front end's half of the job widget.  Text from jobs (reasons, names, output)
// is untrusted: it is only ever set as text, never as HTML.

const SYMBOLS = {
  done: "✓", failed: "✕", removed: "−", running: "▶", transferring: "⇅", suspended: "‖",
  held: "!", idle: "○", queued: "…", waiting: "…",
};
const CALL_STATES = ["done", "failed", "removed", "running", "held", "waiting"];
const ROWS = 25;
const BUSY = "The kernel is busy: it will process this click when the cell ends. "
  + "To process it now, interrupt the cell. map_async leaves the kernel free for clicks.";
const LOST = "No contact with the kernel: this display may be out of date. "
  + "The jobs continue. Run a cell to check whether the kernel is alive.";

const count = (n) => Math.round(n).toLocaleString("en");
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;

function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const [hours, minutes] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${minutes}:${two(s % 60)}`;
}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Keep one child per item, created once and then only updated: the focus stays in place. */
function keep(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, i) => {
    const key = String(keyOf(item));
    let child = old.get(key);
    if (!child) {
      child = create(item);
      child.dataset.key = key;
    }
    old.delete(key);
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
    update(child, item);
  });
  for (const child of old.values()) child.remove();
}

function render({ model, el }) {
  let lastMessage = performance.now();
  let drawing = false;
  let number = 0;
  let page = { total: 0, offset: 0, rows: [] };
  let isPaging = false;
  const orders = new Map();
  const selected = new Set();

  // -- orders ---------------------------------------------------------------
  function order(what, button) {
    const id = ++number;
    const timer = setTimeout(() => setText(answer, BUSY), 3000);
    orders.set(id, { button, timer });
    button?.setAttribute("aria-disabled", "true");
    model.send({ ...what, id });
  }

  function handleAnswer(message) {
    lastMessage = performance.now();
    const sent = orders.get(message.id);
    if (!sent) return;
    clearTimeout(sent.timer);
    if (message.taken) return;
    orders.delete(message.id);
    isPaging = false;
    sent.button?.removeAttribute("aria-disabled");
    if (message.said) {
      setText(answer, message.said[0].toUpperCase() + message.said.slice(1));
      askPage();
    }
    if (message.page) {
      page = message.page;
      drawPage();
    }
    if (message.printed !== undefined) setText(printedText, message.printed);
    if (message.log) {
      setText(logTitle, `Job ${message.log.job}`);
      setText(logText, message.log.text);
      log.hidden = false;
      logText.scrollTop = logText.scrollHeight;
    }
  }

  /** A button; `what` returns its order, `question` the text of a confirmation button. */
  function button(text, what, question) {
    const main = make("button", { type: "button", class: "cp-button" }, text);
    const box = make("span", { class: "cp-action" }, main);
    const send = () => {
      if (main.getAttribute("aria-disabled") !== "true") order(what(), main);
    };
    main.addEventListener("click", () => {
      if (!question) return send();
      const dismiss = () => {
        box.replaceChildren(main);
        main.focus();
      };
      const yes = make("button", { type: "button", class: "cp-button cp-danger", onclick: () => { dismiss(); send(); } }, question());
      const no = make("button", { type: "button", class: "cp-button", onclick: dismiss }, "Keep");
      box.replaceChildren(yes, no);
      box.onkeydown = (event) => { if (event.key === "Escape") dismiss(); };
      yes.focus();
    });
    box.label = (label) => main.setAttribute("aria-label", label);
    return box;
  }

  // -- elements ---------------------------------------------------------------
  const name = make("strong", { class: "cp-name" });
  const calls = make("span");
  const times = make("span", { class: "cp-times" });
  const bar = make("div", { class: "cp-bar", role: "progressbar", "aria-valuemin": 0 });
  const callCounts = make("ul", { class: "cp-counts", "aria-label": "Calls" });
  const jobCounts = make("ul", { class: "cp-counts cp-jobs", "aria-label": "Jobs" });
  const note = make("div", { class: "cp-note", "aria-live": "polite" });
  const answer = make("div", { class: "cp-answer", role: "status" });

  const held = () => state().held.reduce((sum, group) => sum + group.count, 0);
  const heldTitle = make("span", { class: "cp-title" });
  const heldGroups = make("ul", { class: "cp-groups" });
  const heldPart = make("section", { "aria-label": "Held jobs" },
    make("div", { class: "cp-line" }, heldTitle,
      button("Release held", () => ({ do: "release", held: true, count: held() })),
      button("Remove held", () => ({ do: "remove", held: true, count: held() }),
        () => `Remove ${plural(held(), "job")}`)),
    heldGroups);

  const failedTitle = make("span", { class: "cp-title" });
  const rerun = button("Rerun failed", () => ({ do: "rerun" }));
  const failedGroups = make("ul", { class: "cp-groups" });
  const failedPart = make("section", { "aria-label": "Failed calls" },
    make("div", { class: "cp-line" }, failedTitle, rerun), failedGroups);

  const printedTitle = make("summary");
  const printedText = make("pre", { class: "cp-log", tabindex: "0" });
  const printedPart = make("details", { class: "cp-details" }, printedTitle, printedText);

  const filter = make("select", { class: "cp-select", "aria-label": "Show jobs that are" },
    ...["all", "running", "idle", "held", "suspended", "queued"].map((word) => make("option", { value: word }, word)));
  const [previous, next] = [["‹", "Previous page", -1], ["›", "Next page", 1]].map(([text, label, step]) =>
    make("button", { type: "button", class: "cp-button", "aria-label": label, onclick: () => turn(step) }, text));
  const where = make("span", { class: "cp-where" });
  const rows = make("tbody");
  const onSelected = ["Release", "Hold", "Remove"].map((verb) => button(`${verb} selected`,
    () => ({ do: verb.toLowerCase(), ids: [...selected] }),
    verb === "Remove" ? () => `Remove ${plural(selected.size, "job")}` : undefined));
  const heads = ["", "Job", "State", "Machine", "Run time", "Memory", "Runs", ""];
  const table = make("table", { class: "cp-table" },
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), rows);
  const logTitle = make("span", { class: "cp-title" });
  const logText = make("pre", { class: "cp-log", tabindex: "0" });
  const log = make("section", { "aria-label": "Log of a job", hidden: "" },
    make("div", { class: "cp-line" }, logTitle,
      make("button", { type: "button", class: "cp-button", onclick: () => { log.hidden = true; } }, "Close log")),
    logText);
  const details = make("details", { class: "cp-details" }, make("summary", {}, "Jobs"),
    make("div", { class: "cp-line" }, filter, previous, where, next, ...onSelected),
    make("div", { class: "cp-scroll" }, table), log);

  const all = make("div", { class: "cp-all" },
    button("Hold all", () => ({ do: "hold", all: true })),
    button("Remove all", () => ({ do: "remove", all: true }),
      () => `Remove what remains of ${plural(state().counts.total, "call")}`));
  const foot = make("div", { class: "cp-foot" }, details, all);
  const root = make("fieldset", { class: "condorpool" },
    make("div", { class: "cp-line" }, name, calls, times), bar,
    make("div", { class: "cp-legend" }, callCounts, jobCounts),
    note, heldPart, failedPart, printedPart, answer, foot);
  el.replaceChildren(root);

  // -- drawing ------------------------------------------------------------------
  const state = () => model.get("state");

  function draw() {
    drawing = false;
    const s = state();
    const { total } = s.counts;
    const shown = CALL_STATES.map((word) => [word, s.counts[word]]).filter(([, n]) => n);
    const ended = s.counts.done + s.counts.failed + s.counts.removed;
    setText(name, s.name);
    root.setAttribute("aria-label", `condorpool: ${s.name}`);
    setText(calls, `${count(ended)} of ${plural(total, "call")} ended`);
    const words = Object.entries(s.jobs);
    bar.setAttribute("aria-valuemax", total);
    bar.setAttribute("aria-valuenow", ended);
    bar.setAttribute("aria-valuetext", [`${count(ended)} of ${plural(total, "call")} ended`,
      ...shown.map(([word, n]) => `${count(n)} ${word}`),
      ...words.map(([word, n]) => `${plural(n, "job")} ${word}`)].join(", "));
    keep(bar, shown, ([word]) => word,
      ([word]) => make("span", { class: `cp-part cp-${word}` }),
      (part, [, n]) => { part.style.flexGrow = n; });
    drawCounts(callCounts, shown);
    callCounts.hidden = !shown.length;
    // Jobs that HTCondor will create later are shown as waiting calls.
    drawCounts(jobCounts, words.filter(([word]) => word !== "queued"));
    jobCounts.hidden = !jobCounts.children.length;
    setText(note, s.note);
    drawHeld(s);
    drawFailed(s);
    printedPart.hidden = !s.printed;
    setText(printedTitle, `printed by ${plural(s.printed, "call")}`);
    drawTimes();
  }

  function drawCounts(list, entries) {
    keep(list, entries, ([word]) => word,
      ([word]) => make("li", {}, make("span", { class: `cp-symbol cp-${word}`, "aria-hidden": "true" }, SYMBOLS[word]), make("span")),
      (item, [word, n]) => setText(item.lastChild, `${count(n)} ${word}`));
  }

  function drawHeld(s) {
    heldPart.hidden = !s.held.length;
    setText(heldTitle, `${plural(held(), "job")} held`);
    keep(heldGroups, s.held, (group) => group.key, (group) => {
      const just = (what) => () => {
        const now = state().held.find((other) => other.key === group.key);
        return { do: what, group: group.key, count: now?.count ?? 0 };
      };
      const actions = [button("Release", just("release")), button("Remove", just("remove"), () => "Remove these")];
      if (group.needs_memory) actions.unshift(button("Release with more memory", just("release_with_memory")));
      const item = make("li", {}, make("div", { class: "cp-line" }, make("span", { class: "cp-reason" }), ...actions),
        make("div", { class: "cp-cure" }));
      item.actions = actions;
      return item;
    }, (item, group) => {
      const code = group.code ? ` (hold code ${group.code}.${group.subcode})` : "";
      setText(item.firstChild.firstChild, `${count(group.count)} × ${group.reason}${code}`);
      setText(item.lastChild, group.cure);
      const about = `${plural(group.count, "job")} held: ${group.reason.slice(0, 60)}`;
      for (const action of item.actions) {
        const text = action.firstChild.textContent;
        if (action.children.length === 1) action.label(`${text} ${about}`);
        // With only one group, the buttons above do the same.
        action.hidden = s.held.length < 2 && !text.includes("memory") && action.children.length === 1;
      }
    });
  }

  function drawFailed(s) {
    failedPart.hidden = !s.failures.length;
    rerun.hidden = !s.reruns;
    setText(failedTitle, `${plural(s.counts.failed, "call")} failed`);
    keep(failedGroups, s.failures, (group) => `${group.kind}: ${group.message}`,
      () => make("li", { class: "cp-reason" }),
      (item, group) => setText(item, `${count(group.count)} × ${group.kind}${group.message && ": "}${group.message}`));
  }

  function drawTimes() {
    const s = state();
    const waited = s.ended ? 0 : (performance.now() - lastState) / 1000;
    const parts = [duration(s.elapsed + waited)];
    if (s.rate) parts.push(s.rate >= 1 ? `${count(s.rate)}/s` : `${(s.rate * 60).toPrecision(2)}/min`);
    if (s.eta != null) parts.push(`about ${duration(s.eta)} remaining`);
    if (s.hosts > 1) parts.push(`${count(s.hosts)} machines`);
    setText(times, parts.join(" · "));
    const lost = !s.ended && performance.now() - lastMessage > 3000 * model.get("heartbeat");
    root.classList.toggle("cp-lost", lost);
    root.disabled = lost || s.ended;
    foot.hidden = s.ended;
    if (lost) setText(note, LOST);
    else if (note.textContent === LOST) setText(note, s.note);
  }

  // -- what calls print -----------------------------------------------------------
  let printedBy = 0; // how many calls had printed when their text was asked for
  function askPrinted() {
    if (!printedPart.open || root.disabled || printedBy === state().printed) return;
    printedBy = state().printed;
    order({ do: "printed" });
  }

  // -- pages of jobs --------------------------------------------------------------
  function askPage() {
    if (!details.open || isPaging || root.disabled) return;
    isPaging = true;
    order({ do: "page", state: filter.value, offset: page.offset, count: ROWS });
  }

  function turn(step) {
    const offset = page.offset + step * ROWS;
    if (offset >= 0 && offset < page.total) {
      page.offset = offset;
      isPaging = false;
      askPage();
    }
  }

  function drawPage() {
    if (page.offset && !page.rows.length) return turn(-1);
    const last = page.offset + page.rows.length;
    setText(where, page.total ? `${count(page.offset + 1)}–${count(last)} of ${count(page.total)}` : "none");
    previous.disabled = !page.offset;
    next.disabled = last >= page.total;
    keep(rows, page.rows, (row) => row.id, (row) => {
      const box = make("input", { type: "checkbox", "aria-label": `Select job ${row.id}` });
      box.checked = selected.has(row.id);
      box.addEventListener("change", () => {
        selected[box.checked ? "add" : "delete"](row.id);
        drawSelected();
      });
      const logButton = make("button", { type: "button", class: "cp-button", "aria-label": `Log of job ${row.id}` }, "Log");
      logButton.addEventListener("click", () => order({ do: "log", job: row.id }, logButton));
      return make("tr", {}, make("td", {}, box), ...Array.from({ length: 6 }, () => make("td")), make("td", {}, logButton));
    }, (tr, row) => {
      const texts = [row.id, row.state, row.host, row.seconds == null ? "" : duration(row.seconds),
        row.memory ? `${count(row.memory)} MiB` : "", row.attempts ? String(row.attempts) : ""];
      texts.forEach((text, i) => setText(tr.children[i + 1], text));
      tr.title = row.reason;
    });
    drawSelected();
  }

  function drawSelected() {
    for (const box of onSelected) box.hidden = !selected.size;
  }

  // -- lifetime -------------------------------------------------------------------
  let lastState = performance.now();
  function changed() {
    lastMessage = lastState = performance.now();
    if (!drawing) {
      drawing = true;
      requestAnimationFrame(draw);
    }
  }
  const beat = () => { lastMessage = performance.now(); };
  model.on("change:state", changed);
  model.on("change:beat", beat);
  model.on("msg:custom", handleAnswer);
  details.addEventListener("toggle", askPage);
  printedPart.addEventListener("toggle", askPrinted);
  filter.addEventListener("change", () => {
    page.offset = 0;
    selected.clear();
    isPaging = false;
    askPage();
  });
  const clock = setInterval(() => {
    drawTimes();
    if (Math.floor(performance.now() / 1000) % 2) {
      askPage();
      askPrinted();
    }
  }, 1000);
  drawSelected();
  draw();
  model.send({ do: "ready" });
  return () => {
    clearInterval(clock);
    for (const { timer } of orders.values()) clearTimeout(timer);
    model.off("change:state", changed);
    model.off("change:beat", beat);
    model.off("msg:custom", handleAnswer);
  };
}

export default { render };
