"""Prints what is published, each row once: read.py HOST PORT FILTER"""

import json
import sys

from paho.mqtt import subscribe

through_of = {}  # of each instance, the number of the last row that was accounted for


def lines(event):
    """What is new in an event, as text."""
    instance = tuple(event[name] for name in ("source", "stream", "subject", "specifier"))
    after, through = int(event["after"]), int(event["through"])  # large ones are strings
    at = through_of.get(instance, after)  # the first message is where this reader begins
    through_of[instance] = max(at, through)
    if after > at:
        yield f"rows {at + 1} to {after} did not come"
    if through <= at:
        return  # a repetition, or one that only says that the producer is alive
    data = event["data"]
    if event["datacontenttype"] == "application/jose":
        yield f"sealed rows {after + 1} to {through}: vmkpi open --key has them"
    elif event["type"] == "org.vmkpi.gap.v1":
        yield f"rows {after + 1} to {through} are lost: {data['reason']}"
    elif event["type"] == "org.vmkpi.processed.v1":
        partial = ", in part" if data.get("partial") else ""
        yield f"{data['function']} of {data['from']} to {data['to']}{partial}: {json.dumps(data['values'])}"
    elif event["type"] == "org.vmkpi.raw.v1":
        for sample in data["samples"]:
            if int(sample["seq"]) > at:  # a message may overlap with the one before
                yield f"{sample['time']} {json.dumps(sample.get('values', sample.get('data_base64')))}"


def on_message(_client, _userdata, message):
    try:
        event = json.loads(message.payload)
        for line in lines(event):
            print(event["source"], event["subject"], event["specifier"], line, flush=True)
    except Exception as error:  # whatever anybody sends, this goes on
        print(f"{message.topic}: no message of vmkpi: {error!r}", file=sys.stderr)


host, port, topics = sys.argv[1:]
try:
    subscribe.callback(on_message, topics, qos=1, hostname=host, port=int(port))
except OSError as error:
    sys.exit(f"{host}:{port}: {error.strerror}")
