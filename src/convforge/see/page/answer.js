// Above every view: the image that is looked at, and what the network answers to it.

import { change } from "./address.js";
import { json } from "./api.js";
import { imagePicker } from "./controls.js";
import { el } from "./dom.js";
import { probability, real } from "./numbers.js";

/** Classes that are asked for at a time: one question, and so one stored answer, serves all that show them. */
export const TOP = 10;
const SHOWN = 3;

/** The answer of the network to an image: {ranking, classes, layer, truth, right}, or {ranking: null, why}. */
export function answerTo(image, signal) {
  return json("/api/answer", { image, top: TOP }, signal);
}

/** "7 98.6%", with a bar as long as it is probable. */
export function share(entry, kind = "share") {
  const value = `${entry.name}: ${probability(entry.probability)}, the network's number is ${real(entry.value)}`;
  return el(
    "li",
    { class: kind, title: value },
    el("span", { class: "class", text: entry.name }),
    el("span", { class: "meter", "aria-hidden": true }, el("i", { style: { width: `${100 * entry.probability}%` } })),
    el("span", { class: "percent", text: probability(entry.probability) }),
  );
}

/** What is known of the image, and whether the answer agrees. */
function truthOf(answer) {
  if (answer.truth) return el("p", { class: answer.right ? "truth right" : "truth wrong" }, "It is ", el("b", { text: answer.truth.name }), answer.right ? ": right" : `: wrong, ${probability(answer.truth.probability)} for it`);
  return answer.label ? el("p", { class: "truth" }, "It is in ", el("b", { text: answer.label })) : null;
}

export class Asked {
  constructor(element, network) {
    this.element = element;
    this.network = network;
    this.images = imagePicker({ images: network.images, change: (image) => change({ image }, true) });
    this.answer = el("div", { class: "answer", "aria-live": "polite" });
    this.shown = null;
    element.replaceChildren(this.images.element, this.answer);
  }

  /** The image with this id, as the address has it; without one the first. */
  async show(text) {
    const image = this.network.images.find(({ id }) => String(id) === text) || this.network.images[0];
    if (!image || this.shown === image.id) return;
    this.shown = image.id;
    this.images.set(image.id);
    try {
      const answer = await answerTo(image.id);
      if (this.shown === image.id) this.write(answer);
    } catch (error) {
      if (this.shown === image.id) this.answer.replaceChildren(el("p", { class: "quiet", text: error.message }));
    }
  }

  write(answer) {
    if (!answer.ranking) {
      this.answer.replaceChildren(el("p", { class: "quiet", text: `No answer in classes: ${answer.why}` }));
      return;
    }
    const entries = answer.ranking.slice(0, SHOWN).map((entry, place) => share(entry, place ? "share" : "share first"));
    this.answer.replaceChildren(
      el("p", { class: "label", text: "The network answers" }),
      el("ol", { class: "shares" }, ...entries),
      truthOf(answer) || "",
    );
  }
}
