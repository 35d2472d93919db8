/** What a person does to runs, operations and dead letters: each asks for a reason and says what it will do. */

import { path, post } from "./api.js";
import { h } from "./dom.js";
import { formFor } from "./forms.js";
import { act, labelled } from "./ui.js";

const ABOUT = {
  pause: "Executes nothing until it is resumed. Attempts under way may end; handlers and queries go on.",
  resume: "Goes on where it stands. A parked run is tried again with the code of today.",
  cancel: "Raises CancelledError at its await: its cleanup and compensations run.",
  terminate: "Ends at once, without any cleanup.",
  rerun: "A new run from the beginning, with the arguments of the last one. A live run is terminated with it.",
};
const TONE = { terminate: "danger", rerun: "danger", cancel: "danger" };

const runPath = (run, action) => path(["entities", run.type, run.key, run.workflow, action]);
const nameOf = (run) => `${run.type}/${run.key}.${run.workflow}`;

/** `run`: type, key, workflow. `action`: one of ABOUT. */
export const onRun = (run, action) =>
  act({
    title: `${capital(action)} ${nameOf(run)}`,
    about: ABOUT[action],
    verb: capital(action),
    tone: TONE[action],
    keepsReason: action !== "cancel",
    done: `${capital(action)}: applied to ${nameOf(run)}`,
    run: (why) => post(runPath(run, action), action === "terminate" ? { reason: why.reason } : why),
  });

export const retry = (run, operation, name) =>
  act({
    title: `Retry ${name || `operation ${operation}`} now`,
    about: `${nameOf(run)}, operation ${operation}. The next attempt begins at once; used up attempts are there anew.`,
    verb: "Retry now",
    done: `${name || "The operation"} is being tried again`,
    run: (why) => post(runPath(run, "retry"), { ...why, operation }),
  });

export function complete(run, operation, name) {
  const form = formFor({});
  return act({
    title: `Complete ${name} with a value`,
    about: `${nameOf(run)} goes on as if the activity had returned this. It must fit the activity's result type.`,
    verb: "Complete",
    more: [form.element],
    done: `${name} has its result`,
    run: (why) => post(runPath(run, "complete"), { ...why, operation, value: form.read() ?? null }),
  });
}

export function fail(run, operation, name) {
  const message = h("input", { required: true, autocomplete: "off" });
  return act({
    title: `Fail ${name} for good`,
    about: `An ApplicationError with this message is raised at the await in ${nameOf(run)}; the retry policy is not asked.`,
    verb: "Fail it",
    tone: "danger",
    more: [labelled("Message of the error", message)],
    done: `${name} has failed`,
    run: (why) => post(runPath(run, "fail"), { ...why, operation, error: { message: message.value } }),
  });
}

const letterPath = (letter, action) => path(["entities", letter.type, letter.key, "-", action]);

export const resend = (letter) =>
  act({
    title: `Send ${letter.name} again`,
    about: `To ${letter.type}/${letter.key}, with all its attempts. The dead letter is gone with the same commit.`,
    verb: "Send again",
    done: `${letter.name} was sent again to ${letter.type}/${letter.key}`,
    run: (why) => post(letterPath(letter, "replay"), { ...why, message_id: letter.message_id }),
  });

export const discard = (letter) =>
  act({
    title: `Discard ${letter.name}`,
    about: `The message to ${letter.type}/${letter.key} is deleted and will never be applied.`,
    verb: "Discard",
    tone: "danger",
    done: "The dead letter is gone",
    run: (why) => post(letterPath(letter, "discard"), { ...why, message_id: letter.message_id }),
  });

export const drain = (host) =>
  act({
    title: `Drain host ${host.id}`,
    about: "Takes it out in order: its successor starts, then it hands its shards over and its process ends. No call fails. It cannot be taken back.",
    verb: "Drain",
    tone: "danger",
    done: `${host.id} is ordered out`,
    run: (why) => post(path(["hosts", host.id, "drain"]), why),
  });

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** A button that acts and then looks again. */
export const button = (text, action, look, { tone, key } = {}) =>
  h("button", { type: "button", class: tone, "data-key": key, on: { click: async () => { if (await action()) look(); } } }, text);
