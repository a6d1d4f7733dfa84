// The front end's half of the job widget.  Text from jobs (reasons, names, output)
// is untrusted: it is only ever set as text.  Only the report is HTML, made and escaped by the
// kernel's half, which shows the same HTML in an output of its own.

const SYMBOLS = {
  done: "✓", failed: "✕", removed: "−", running: "▶", transferring: "⇅", suspended: "‖",
  held: "!", idle: "○", queued: "…", waiting: "…",
};
const CALL_STATES = ["done", "failed", "removed", "running", "held", "waiting"];
const ROWS = 12;
/** Milliseconds in which the answers to a question cannot be clicked: a double click asks it. */
const ARMING = 500;
const BUSY = "The kernel is busy: it will process this click when the cell ends. "
  + "To process it now, interrupt the cell. map_async leaves the kernel free for clicks.";
const LOST = "No contact with the kernel: this display may be out of date. The jobs continue. "
  + "If the kernel has ended or was restarted, ";
const RESTARTED = "The kernel was restarted: this display is no longer updated. The jobs continue: ";

const count = (n) => Math.round(n).toLocaleString("en");
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
const ordinal = (n) => {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${n}${ending[new Intl.PluralRules("en", { type: "ordinal" }).select(n)]}`;
};

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

const isOff = (node) => node.getAttribute("aria-disabled") === "true";

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
    const timer = setTimeout(() => say(BUSY), 3000);
    orders.set(id, { button, timer, releases: what.do.startsWith("release") });
    button?.setAttribute("aria-disabled", "true");
    model.send({ ...what, id });
  }

  let said = ""; // the last answer
  let timesHeld = Infinity; // how often jobs had been held when that released some
  function say(text, times = Infinity) {
    [said, timesHeld] = [text, times];
    drawAnswer();
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
      say(message.said[0].toUpperCase() + message.said.slice(1), sent.releases ? mostHeld() : Infinity);
      askPage();
    }
    if (message.page) {
      page = message.page;
      drawPage();
    }
    if (message.printed !== undefined) setText(printedText, message.printed);
    if (message.log) {
      setText(logTitle, message.log.title);
      setText(logText, message.log.text);
      log.hidden = false;
      log.scrollIntoView({ block: "nearest" });
      logText.scrollTop = logText.scrollHeight;
    }
  }

  /**
   * A button; `what` returns its order, `question` the text of a confirmation button.
   *
   * What destroys must not happen by a double click or a repeated key: the answers can be
   * clicked only after a moment, the focus goes to "Keep", and that is where the button was.
   */
  function button(text, what, question) {
    const main = make("button", { type: "button", class: "cp-button" }, text);
    const box = make("span", { class: "cp-action" }, main);
    const send = () => {
      if (!isOff(main)) order(what(), main);
    };
    main.addEventListener("click", () => {
      if (!question) return send();
      if (isOff(main)) return;
      const dismiss = () => {
        box.replaceChildren(main);
        main.focus();
      };
      const answerButton = (label, kind, action) => make("button", {
        type: "button", class: `cp-button ${kind}`, "aria-disabled": "true",
        onclick: (event) => { if (!isOff(event.currentTarget)) action(); },
      }, label);
      const yes = answerButton(question(), "cp-danger", () => { dismiss(); send(); });
      const no = answerButton("Keep", "", dismiss);
      const before = main.getBoundingClientRect();
      no.style.minWidth = `${before.width}px`;
      box.replaceChildren(no, yes);
      const place = yes.getBoundingClientRect();
      if (place.left < before.right && before.left < place.right && place.top < before.bottom && before.top < place.bottom) {
        box.replaceChildren(yes, no);
      }
      setTimeout(() => [yes, no].forEach((one) => one.removeAttribute("aria-disabled")), ARMING);
      no.focus();
    });
    box.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.repeat) event.preventDefault();
      if (event.key === "Escape" && !main.isConnected) {
        box.replaceChildren(main);
        main.focus();
      }
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
  const neverText = make("span", { role: "alert" });
  const never = make("div", { class: "cp-line cp-never", hidden: "" }, neverText,
    button("Remove", () => ({ do: "remove", idle: true }), () => "Remove these calls"));
  const answer = make("div", { class: "cp-answer", role: "status" });

  const mostHeld = () => Math.max(0, ...state().held.map((group) => group.times));
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
  const printedText = make("pre", { class: "cp-printed", tabindex: "0" });
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
  const heads = ["", "Job", "State", "Calls", "Machine", "Run time", "Memory", "Runs", ""];
  const table = make("table", { class: "cp-table" },
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))), rows);
  const logTitle = make("span", { class: "cp-title" });
  const logText = make("pre", { class: "cp-log", tabindex: "0" });
  const log = make("section", { "aria-label": "Log", hidden: "" },
    make("div", { class: "cp-line" }, logTitle,
      make("button", { type: "button", class: "cp-button", onclick: () => { log.hidden = true; } }, "Close log")),
    logText);
  const details = make("details", { class: "cp-details" }, make("summary", {}, "Jobs"),
    make("div", { class: "cp-line" }, filter, previous, where, next, ...onSelected),
    make("div", { class: "cp-scroll" }, table));

  const all = make("div", { class: "cp-all" },
    button("Hold all", () => ({ do: "hold", all: true })),
    button("Remove all", () => ({ do: "remove", all: true }),
      () => `Remove what remains of ${plural(state().counts.total, "call")}`));
  const foot = make("div", { class: "cp-foot" }, details, all);
  const root = make("fieldset", { class: "condorpool" },
    make("div", { class: "cp-line" }, name, calls, times), bar,
    make("div", { class: "cp-legend" }, callCounts, jobCounts),
    note, never, heldPart, failedPart, printedPart, answer, foot, log);
  const fallback = model.get("fallback");
  // Hides the output with the HTML that stands in for the widget where there is none.
  const style = make("style", {}, fallback
    ? `.${fallback}, .jp-OutputArea-child:has(.${fallback}) { display: none !important }` : "");
  el.replaceChildren(style, root);

  // -- drawing ------------------------------------------------------------------
  const state = () => model.get("state");
  const isLost = () => isRestarted || performance.now() - lastMessage > 3000 * model.get("heartbeat");
  const waited = () => (isLost() ? 0 : (performance.now() - lastState) / 1000);
  const countsOf = (s) => CALL_STATES.map((word) => [word, s.counts[word]]).filter(([, n]) => n);

  function draw() {
    drawing = false;
    if (model.get("report")["text/html"]) return drawReport();
    const s = state();
    const { total } = s.counts;
    const shown = countsOf(s);
    const ended = s.counts.done + s.counts.failed + s.counts.removed;
    setText(name, s.name);
    root.setAttribute("aria-label", `condorpool: ${s.name}`);
    const summary = `${count(s.counts.done)} of ${plural(total, "call")} done`;
    setText(calls, summary);
    const words = Object.entries(s.jobs);
    bar.setAttribute("aria-valuemax", total);
    bar.setAttribute("aria-valuenow", ended);
    bar.setAttribute("aria-valuetext", [summary,
      ...shown.filter(([word]) => word !== "done").map(([word, n]) => `${count(n)} ${word}`),
      ...words.map(([word, n]) => `${plural(n, "job")} ${word}`)].join(", "));
    keep(bar, shown, ([word]) => word,
      ([word]) => make("span", { class: `cp-part cp-${word}` }),
      (part, [, n]) => { part.style.flexGrow = n; });
    // Jobs that HTCondor will create later are shown as waiting calls.
    drawCounts(jobCounts, words.filter(([word]) => word !== "queued"));
    jobCounts.hidden = !jobCounts.children.length;
    setText(neverText, s.never);
    never.hidden = !s.never;
    drawHeld(s);
    drawFailed(s);
    printedPart.hidden = !s.printed;
    setText(printedTitle, `printed by ${plural(s.printed, "call")}`);
    drawAnswer();
    drawTimes();
  }

  function drawCounts(list, entries, text = (word, n) => `${count(n)} ${word}`) {
    keep(list, entries, ([word]) => word,
      ([word]) => make("li", {}, make("span", { class: `cp-symbol cp-${word}`, "aria-hidden": "true" }, SYMBOLS[word]), make("span")),
      (item, [word, n]) => setText(item.lastChild, text(word, n)));
  }

  function drawCalls() {
    const s = state();
    drawCounts(callCounts, countsOf(s), (word, n) => {
      if (word !== "running" || !s.longest) return `${count(n)} ${word}`;
      const time = duration(s.longest.seconds + waited());
      const call = `${s.longest.is_exact ? "" : "about "}call ${count(s.longest.call)}`;
      return `${count(n)} running (${n > 1 ? "the longest " : ""}${time}: ${call})`;
    });
    callCounts.hidden = !callCounts.children.length;
  }

  function drawAnswer() {
    const isHeldAgain = mostHeld() > timesHeld;
    setText(answer, isHeldAgain ? `${said}. Then jobs were held again: fix the cause before the next release.` : said);
    answer.classList.toggle("cp-again", isHeldAgain);
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
        make("div", { class: "cp-again" }), make("div", { class: "cp-cure" }));
      item.actions = actions;
      return item;
    }, (item, group) => {
      const code = group.code ? ` (hold code ${group.code}.${group.subcode})` : "";
      setText(item.firstChild.firstChild, `${count(group.count)} × ${group.reason}${code}`);
      setText(item.children[1], group.times > 1 ? `held again after release, ${ordinal(group.times)} time` : "");
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
    const bad = ["failed", "removed"].filter((word) => s.counts[word]);
    setText(failedTitle, bad.map((word) => `${plural(s.counts[word], "call")} ${word}`).join(", "));
    keep(failedGroups, s.failures, (group) => group.call,
      (group) => make("li", { class: "cp-line" }, make("span", { class: "cp-reason" }),
        button("Log", () => ({ do: "log", call: group.call }))),
      (item, group) => {
        setText(item.firstChild, `${count(group.count)} × ${group.kind}${group.message && ": "}${group.message}`);
        item.lastChild.label(`Log of call ${group.call}: ${group.kind}`);
      });
  }

  /** Replace everything, as the kernel does with the output where the page lets it. */
  function drawReport() {
    clearInterval(clock);
    const report = make("div", { class: "condorpool cp-report" });
    report.innerHTML = model.get("report")["text/html"];
    el.replaceChildren(style, report);
    saving ??= setTimeout(saveReport, 2000);
  }

  /**
   * Write the report into the outputs of a page that was reloaded before the end.
   *
   * It does not receive the kernel's updates of outputs, and would save the last HTML that it
   * knows.  Other pages have received them by now, and this widget is gone.
   */
  function saveReport() {
    const cells = model.widget_manager?.context?.model?.cells;
    if (!cells || !fallback) return;
    const set = (outputs, i, data) => outputs.set(i, { output_type: "display_data", metadata: {}, data });
    for (const { outputs } of cells) {
      for (let i = 0; i < (outputs?.length ?? 0); i++) {
        const { data } = outputs.get(i);
        const view = data["application/vnd.jupyter.widget-view+json"];
        if (String(data["text/html"]).includes(fallback)) set(outputs, i, model.get("report"));
        else if (view && `cp-${view.model_id}` === fallback) set(outputs, i, { "text/plain": "" });
      }
    }
  }

  function drawTimes() {
    const s = state();
    const lost = isLost();
    const parts = [duration(s.elapsed + waited())];
    if (s.rate && !lost) parts.push(s.rate >= 1 ? `${count(s.rate)}/s` : `${(s.rate * 60).toPrecision(2)}/min`);
    if (s.eta != null && !lost) parts.push(`about ${duration(s.eta)} remaining`);
    if (s.hosts > 1) parts.push(`${count(s.hosts)} machines`);
    setText(times, parts.join(" · "));
    drawCalls();
    root.classList.toggle("cp-lost", lost);
    root.disabled = lost;
    setText(note, lost ? `${isRestarted ? RESTARTED : LOST}%condor_attach ${s.name} resumes the calls.` : s.note);
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
    // Why a job is held is a line of its own, below the job.
    const lines = page.rows.flatMap((row) => (row.reason ? [row, { id: `${row.id} why`, why: row.reason }] : [row]));
    keep(rows, lines, (row) => row.id, (row) => {
      if (row.why) return make("tr", { class: "cp-why" }, make("td"), make("td", { colspan: heads.length - 1 }, make("div")));
      const box = make("input", { type: "checkbox", "aria-label": `Select job ${row.id}` });
      box.checked = selected.has(row.id);
      box.addEventListener("change", () => {
        selected[box.checked ? "add" : "delete"](row.id);
        drawSelected();
      });
      const logButton = make("button", { type: "button", class: "cp-button", "aria-label": `Log of job ${row.id}` }, "Log");
      logButton.addEventListener("click", () => order({ do: "log", job: row.id }, logButton));
      return make("tr", {}, make("td", {}, box), ...Array.from({ length: 7 }, () => make("td")), make("td", {}, logButton));
    }, (tr, row) => {
      if (row.why) return setText(tr.lastChild.firstChild, row.why);
      const texts = [row.id, row.state, row.calls, row.host, row.seconds == null ? "" : duration(row.seconds),
        row.memory ? `${count(row.memory)} MiB` : "", row.attempts ? String(row.attempts) : ""];
      texts.forEach((text, i) => setText(tr.children[i + 1], text));
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
  let isRestarted = false;
  let saving;
  const disconnected = () => {
    isRestarted = true;
    drawTimes();
  };
  model.on("change:state", changed);
  model.on("change:report", changed);
  model.on("comm_live_update", disconnected);
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
    clearTimeout(saving);
    for (const { timer } of orders.values()) clearTimeout(timer);
    model.off("change:state", changed);
    model.off("change:report", changed);
    model.off("comm_live_update", disconnected);
    model.off("change:beat", beat);
    model.off("msg:custom", handleAnswer);
  };
}

export default { render };
