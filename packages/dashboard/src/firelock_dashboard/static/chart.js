// <fl-chart data-from=… data-kind=… data-span=…>: draws the data from the URL in data-from, replacing the server's
// drawing. It uses the colours of the states; only a live chart moves by itself.
"use strict";

(() => {
  const REFRESH = { live: 2, "1h": 10, "24h": 60, "7d": 300, "30d": 300 }; // seconds
  const UNSEEN = 10; // seconds without a sample after which the server's data is fetched again
  const HEIGHT = 240;

  // The same format as `count_text` of formatting.py.
  const count = (value) => {
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (value < Math.max(size, 1e5)) continue;
      const number = value / size;
      return `${number < 100 ? number.toFixed(1) : Math.round(number)}\u00a0${unit}`;
    }
    return (+value.toFixed(1)).toLocaleString("en");
  };
  // An axis has space for only one unit.
  const marked = {
    count, rate: (value) => `${count(value)}/s`,
    seconds: (value) => (value < 1 ? `${+(value * 1000).toPrecision(3)}\u00a0ms` : value < 10000 ? `${value}\u00a0s` : `${+(value / 3600).toFixed(1)}\u00a0h`),
  };
  const shown = { count, rate: (value) => `${value.toFixed(1)}/s`, seconds: (value) => (value <= 0.001 ? "< 1\u00a0ms" : firelock.span(value)) };

  // The scale ends at a labelled round number that no bar exceeds, and has two to five equal steps.
  const isRound = (value, heads) => heads.includes(Number((value / 10 ** Math.floor(Math.log10(value) + 1e-9)).toPrecision(3)));
  const roundUp = (value) => {
    const power = 10 ** Math.floor(Math.log10(value));
    return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((head) => head * power)
      .find((top) => top >= value * (1 - 1e-9) && (top >= 10 || value < 1 || Number.isInteger(top)));
  };
  const evenly = (top, isWhole) => {
    const steps = [5, 4, 3, 2].find((number) => isRound(top / number, [1, 2, 2.5, 5]) && (!isWhole || Number.isInteger(top / number))) || 1;
    return [...Array(steps + 1).keys()].map((place) => (top * place) / steps);
  };

  // Return the value of a custom property, resolved for the current theme.
  const colour = (name) => {
    const probe = document.createElement("i");
    probe.hidden = true;
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  class Chart extends HTMLElement {
    connectedCallback() {
      if (!window.uPlot || this.plot) return;
      this.tabIndex = 0;
      this.setAttribute("role", "group");
      this.setAttribute("aria-roledescription", "chart");
      this.setAttribute("aria-label", `${this.dataset.label}. ${this.dataset.hint}`);
      this.redraw = () => this.draw();
      this.scheme = matchMedia("(prefers-color-scheme: dark)");
      this.scheme.addEventListener("change", this.redraw);
      document.addEventListener("firelock:theme", this.redraw);
      this.onSample = (event) => this.append(event.detail);
      if (this.dataset.span === "live") document.addEventListener("firelock:sample", this.onSample);
      this.addEventListener("keydown", (event) => this.steer(event));
      this.addEventListener("blur", () => this.point(null));
      this.sizes = new ResizeObserver(() => this.plot?.setSize({ width: this.width(), height: HEIGHT }));
      this.sizes.observe(this);
      this.clock = setInterval(() => this.tick(), 1000);
      this.beat = 0;
      this.fetch();
    }

    disconnectedCallback() {
      clearInterval(this.clock);
      this.sizes?.disconnect();
      this.scheme?.removeEventListener("change", this.redraw);
      document.removeEventListener("firelock:theme", this.redraw);
      document.removeEventListener("firelock:sample", this.onSample);
      this.plot?.destroy();
      this.plot = null;
    }

    // ---- data and drawing ---------------------------------------------------------------------------------

    tick() {
      this.beat += 1;
      if (document.hidden || firelock.isPaused()) return;
      const isFed = this.dataset.span === "live" && firelock.isStreaming();
      if (!isFed && this.beat % REFRESH[this.dataset.span] === 0) this.fetch();
      else if (isFed && this.data) this.slide();
    }

    async fetch() {
      if (this.isBusy) return;
      this.isBusy = true;
      try {
        const headers = this.version ? { "If-None-Match": this.version } : {};
        const answer = await fetch(this.dataset.from, { headers, credentials: "same-origin", cache: "no-store" });
        if (answer.status !== 200) return;
        this.version = answer.headers.get("ETag");
        this.data = await answer.json();
        this.draw();
      } catch { /* the live chip shows this */ } finally {
        this.isBusy = false;
      }
    }

    append(sample) {
      if (!this.data) return;
      const at = Math.floor(sample.at);
      this.slide(at);
      const place = this.data.starts.indexOf(at);
      if (place < 0) return;
      for (const line of this.data.lines) line.values[place] = sample[line.name];
      this.show();
    }

    // Move the window to the current second; unknown values are gaps.
    slide(to = Math.floor(firelock.now() / 1000) - 1) {
      const { starts, lines } = this.data;
      let last = starts.at(-1);
      if (last >= to) return;
      if (to - last > UNSEEN) { this.fetch(); return; }
      while (last < to) {
        last += 1;
        starts.push(last);
        starts.shift();
        for (const line of lines) { line.values.push(null); line.values.shift(); }
      }
      this.show();
    }

    show() { if (this.plot) this.plot.setData(this.columns()); else this.draw(); }

    // Return the data for uPlot: times in the middle of their buckets, and stacks as sums, the highest first.
    columns() {
      const { starts, lines, bucket, stacked } = this.data;
      const instants = starts.map((start) => start + bucket / 2);
      if (!stacked) return [instants, ...lines.map((line) => line.values)];
      const sums = starts.map(() => null);
      const columns = lines.map((line) => line.values.map((value, place) => {
        if (value !== null) sums[place] = (sums[place] || 0) + value;
        return value === null ? null : sums[place];
      }));
      return [instants, ...columns.reverse()];
    }

    width() { return Math.max(200, this.clientWidth); }

    draw() {
      if (!this.data) return;
      const focus = this.at;
      this.plot?.destroy();
      this.querySelector(".drawing")?.setAttribute("hidden", "");
      this.holder ||= this.appendChild(document.createElement("div"));
      this.holder.className = "plot";
      this.plot = new uPlot(this.options(), this.columns(), this.holder);
      this.legend();
      this.tooltip();
      if (focus != null) this.point(focus);
    }

    options() {
      const { lines, stacked, unit, kind, bucket } = this.data;
      const muted = colour("--muted"), grid = colour("--line"), card = colour("--card");
      const colours = lines.map((line) => colour(`--${line.state}-dot`));
      const series = lines.map((line, place) => stacked
        ? { label: line.label, fill: colours[place], width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.82, 60], gap: 0 }) }
        : { label: line.label, stroke: colours[place], width: 2, spanGaps: false, points: kind === "latency" ? { show: true, size: 6, fill: colours[place] } : { show: false } });
      const font = `12px ${getComputedStyle(document.body).fontFamily}`;
      const axis = { stroke: muted, font, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
      return {
        width: this.width(), height: HEIGHT, padding: [8, 22, 0, 0], legend: { show: false },
        cursor: { y: false, points: { show: !stacked }, drag: { x: true, y: false, setScale: false } },
        scales: {
          x: { range: (plot, low, high) => [low - bucket / 2, high + bucket / 2] },
          y: kind === "latency" ? { distr: 3 } : { range: (plot, low, high) => [0, roundUp(high || 1)] },
        },
        axes: [
          { ...axis, grid: { show: false }, space: 70, size: 30, values: this.times() },
          { ...axis, size: 58, space: 44, ...(kind === "latency" ? {} : { splits: (plot, place, low, high) => evenly(high, unit === "count") }), values: (plot, splits) => splits.map((value) => (value === null ? null : marked[unit](value))) },
        ],
        series: [{}, ...(stacked ? series.reverse() : series)],
        hooks: {
          setCursor: [(plot) => this.point(plot.cursor.idx ?? null, true)],
          setSelect: [(plot) => this.select(plot)],
          draw: [(plot) => this.lighten(plot, card)],
        },
      };
    }

    times() {
      const { span } = this.data;
      const options = span === "live" ? { hour: "2-digit", minute: "2-digit", second: "2-digit" }
        : span === "1h" || span === "24h" ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" };
      const format = new Intl.DateTimeFormat("en-GB", options);
      return (plot, splits) => splits.map((at) => format.format(at * 1000));
    }

    // Draw the last bucket lighter, because it has not ended: otherwise it would look like a decrease.
    lighten(plot, card) {
      const { starts, bucket, span, stacked } = this.data;
      if (span === "live" || !stacked) return;
      const left = plot.valToPos(starts.at(-1), "x", true), right = plot.valToPos(starts.at(-1) + bucket, "x", true);
      plot.ctx.save();
      plot.ctx.globalAlpha = 0.55;
      plot.ctx.fillStyle = card;
      plot.ctx.fillRect(left, plot.bbox.top, right - left, plot.bbox.height);
      plot.ctx.restore();
    }

    legend() {
      this.key?.remove();
      this.key = this.appendChild(document.createElement("div"));
      this.key.className = "legend";
      for (const line of this.data.lines) {
        const one = this.key.appendChild(document.createElement("span"));
        one.className = `state-${line.state}`;
        one.appendChild(document.createElement("i"));
        one.append(line.label);
      }
      const zone = this.key.appendChild(document.createElement("span"));
      zone.className = "muted";
      zone.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
    }

    // ---- tooltip and selection -----------------------------------------------------------------------------

    tooltip() {
      this.card?.remove();
      this.card = document.createElement("div");
      this.card.className = "chart-card";
      this.card.hidden = true;
      this.plot.over.append(this.card);
      this.plot.over.addEventListener("click", () => {
        if (!this.hasSelected && this.at != null) this.open(this.at, this.at);
        this.hasSelected = false;
      });
      this.announcement ||= this.appendChild(document.createElement("p"));
      this.announcement.className = "visually-hidden";
      this.announcement.setAttribute("aria-live", "polite");
    }

    rows(place) {
      const { lines, unit } = this.data;
      return lines.map((line) => [line, line.values[place] == null ? "–" : shown[unit](line.values[place])]).reverse();
    }

    when(place) {
      const { starts, bucket, span } = this.data;
      const format = new Intl.DateTimeFormat("en-GB", { dateStyle: bucket < 3600 ? undefined : "medium", timeStyle: span === "live" ? "medium" : "short" });
      const text = format.formatRange(starts[place] * 1000, (starts[place] + bucket) * 1000);
      return span !== "live" && place === starts.length - 1 ? `${text}, ${this.dataset.unfinished}` : text;
    }

    point(place, byPointer = false) {
      this.at = place;
      if (!this.card) return;
      this.card.hidden = place == null;
      if (place == null) return;
      const head = document.createElement("strong");
      head.textContent = this.when(place);
      const parts = [head];
      for (const [line, text] of this.rows(place)) {
        const row = document.createElement("span");
        row.className = `state-${line.state}`;
        row.appendChild(document.createElement("i"));
        row.append(line.label);
        row.appendChild(document.createElement("b")).textContent = text;
        parts.push(row);
      }
      this.card.replaceChildren(...parts);
      const x = this.plot.valToPos(this.plot.data[0][place], "x");
      const room = this.plot.over.clientWidth;
      this.card.style.left = `${x > room / 2 ? x - this.card.offsetWidth - 12 : x + 12}px`;
      if (byPointer) return;
      this.plot.setCursor({ left: x, top: 0 }, false);
      this.announcement.textContent = [this.when(place), ...this.rows(place).map(([line, text]) => `${line.label} ${text}`)].join(", ");
    }

    steer(event) {
      if (!this.data || event.target !== this) return;
      const last = this.data.starts.length - 1;
      const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
      if (event.key in moves) this.point(Math.max(0, Math.min(last, (this.at ?? last + 1) + moves[event.key])));
      else if (event.key === "Enter" && this.at != null) this.open(this.at, this.at);
      else if (event.key === "Escape") this.point(null);
      else return;
      event.preventDefault();
    }

    select(plot) {
      if (plot.select.width < 4) return;
      this.hasSelected = true;
      const place = (left) => Math.max(0, Math.min(this.data.starts.length - 1, plot.posToIdx(left)));
      this.open(place(plot.select.left), place(plot.select.left + plot.select.width));
    }

    open(from, to) {
      const { starts, bucket } = this.data;
      const address = new URL(this.dataset.jobs, location.href);
      address.searchParams.set("since", new Date(starts[from] * 1000).toISOString());
      address.searchParams.set("until", new Date((starts[to] + bucket) * 1000).toISOString());
      location.assign(address);
    }
  }

  customElements.define("fl-chart", Chart);
})();
