// Prints what is published, each row once: read.js HOST PORT FILTER
"use strict";

const mqtt = require("mqtt");

const throughOf = new Map(); // of each instance, the number of the last row that was accounted for

// What is new in an event, as text.
function* lines(event) {
  const instance = JSON.stringify([event.source, event.stream, event.subject, event.specifier]);
  const [after, through] = [BigInt(event.after), BigInt(event.through)]; // large ones are strings
  const at = throughOf.get(instance) ?? after; // the first message is where this reader begins
  throughOf.set(instance, through > at ? through : at);
  if (after > at) yield `rows ${at + 1n} to ${after} did not come`;
  if (through <= at) return; // a repetition, or one that only says that the producer is alive
  const { data } = event;
  if (event.datacontenttype === "application/jose") {
    yield `sealed rows ${after + 1n} to ${through}: vmkpi open --key has them`;
  } else if (event.type === "org.vmkpi.gap.v1") {
    yield `rows ${after + 1n} to ${through} are lost: ${data.reason}`;
  } else if (event.type === "org.vmkpi.processed.v1") {
    const partial = data.partial ? ", in part" : "";
    yield `${data.function} of ${data.from} to ${data.to}${partial}: ${JSON.stringify(data.values)}`;
  } else if (event.type === "org.vmkpi.raw.v1") {
    for (const { seq, time, values, data_base64 } of data.samples) {
      if (BigInt(seq) > at) yield `${time} ${JSON.stringify(values ?? data_base64)}`; // a message may overlap
    }
  }
}

const [host, port, topics] = process.argv.slice(2);
const client = mqtt.connect({ host, port });
client.on("connect", () => client.subscribe(topics, { qos: 1 }));
client.on("error", (error) => console.error(`${host}:${port}: ${error.message}`));
client.on("message", (topic, payload) => {
  try {
    const event = JSON.parse(payload);
    for (const line of lines(event)) console.log(event.source, event.subject, event.specifier, line);
  } catch (error) {
    console.error(`${topic}: no message of vmkpi: ${error.message}`);
  }
});
