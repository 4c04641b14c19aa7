// Step, scrub and play through the positions of an output map.

import { button, segmented } from "./controls.js";
import { el, freshId } from "./dom.js";
import { whole } from "./numbers.js";

const PLAY = "M8 5v14l11-7z";
const PAUSE = "M7 5h4v14H7zM13 5h4v14h-4z";
// A small map is walked pixel by pixel; a large one in so many seconds, whatever its size.
const SLOWEST_STEPS = 2.5;
const SECONDS = 24;
const SPEEDS = { slow: 0.5, medium: 1, fast: 4 };

export class Transport {
  /** `move(position)` goes to a position; `playing(on)` tells that it has begun or ended to go by itself. */
  constructor({ move, playing = () => {} }) {
    this.move = move;
    this.tell = playing;
    this.position = 0;
    this.count = 1;
    this.speed = "medium";
    this.frame = 0;
    this.toggleButton = button("Play", () => this.toggle(), { path: PLAY, filled: true });
    this.range = el("input", { type: "range", min: 0, step: 1, id: freshId("scrub"), "aria-label": "Position of the kernel", on: { input: () => (this.stop(), move(Number(this.range.value))) } });
    this.where = el("span", { class: "where" });
    const speeds = segmented({ label: "Speed", options: [["slow", "Slow"], ["medium", "Medium"], ["fast", "Fast"]], change: (speed) => (this.speed = speed) });
    speeds.set(this.speed);
    this.element = el(
      "div",
      { class: "transport", role: "group", "aria-label": "Slide the kernel" },
      button("Back to the first position", () => this.step(-Infinity), { path: "M6 5v14M19 5l-10 7 10 7z" }),
      button("One step back", () => this.step(-1), { path: "M15 6l-6 6 6 6" }),
      this.toggleButton,
      button("One step on", () => this.step(1), { path: "M9 6l6 6-6 6" }),
      this.range,
      this.where,
      speeds.element,
    );
  }

  set(position, count, words) {
    this.position = position;
    this.count = count;
    this.range.max = String(Math.max(0, count - 1));
    this.range.value = String(position);
    this.range.setAttribute("aria-valuetext", words);
    this.where.textContent = `${whole(position + 1)} of ${whole(count)}`;
  }

  step(by) {
    this.stop();
    this.move(Math.min(this.count - 1, Math.max(0, this.position + by)));
  }

  get running() {
    return this.frame !== 0;
  }

  toggle() {
    if (this.running) this.stop();
    else this.start();
  }

  start() {
    this.show(true);
    if (this.position >= this.count - 1) this.move(0);
    let before = performance.now();
    let at = this.position;
    const run = (now) => {
      at += ((now - before) / 1000) * SPEEDS[this.speed] * Math.max(SLOWEST_STEPS, this.count / SECONDS);
      before = now;
      const next = Math.min(this.count - 1, Math.floor(at));
      if (next !== this.position) this.move(next);
      if (next >= this.count - 1) this.stop();
      else this.frame = requestAnimationFrame(run);
    };
    this.frame = requestAnimationFrame(run);
    this.tell(true);
  }

  stop() {
    if (!this.running) return;
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.show(false);
    this.tell(false);
  }

  show(running) {
    this.toggleButton.querySelector("path").setAttribute("d", running ? PAUSE : PLAY);
    this.toggleButton.setAttribute("aria-label", running ? "Pause" : "Play");
    this.toggleButton.title = running ? "Pause" : "Play";
  }
}
