#!/bin/bash
# Prints what is published, each row once: read.sh HOST PORT FILTER
set -euo pipefail
# .seen has, of each instance, the number of the last row that was accounted for; .lines is what is new in an event.
mosquitto_sub -h "$1" -p "$2" -q 1 -t "$3" | jq -nRr --unbuffered '
    foreach (inputs | fromjson?) as $event ({seen: {}}; . as $before | try (
        ([$event | .source, .stream, .subject, .specifier] | tojson) as $instance
        | ($event.after | tonumber) as $after | ($event.through | tonumber) as $through
        | (.seen[$instance] // $after) as $at
        | .seen[$instance] = ([$at, $through] | max)
        | .lines = [(
            if $after > $at then "rows \($at + 1) to \($after) did not come" else empty end,
            if $through <= $at then empty
            elif $event.datacontenttype == "application/jose" then "sealed rows \($after + 1) to \($through): vmkpi open --key has them"
            elif $event.type == "org.vmkpi.gap.v1" then "rows \($after + 1) to \($through) are lost: \($event.data.reason)"
            elif $event.type == "org.vmkpi.processed.v1" then $event.data
                | "\(.function) of \(.from) to \(.to)\(if .partial then ", in part" else "" end): \(.values | tojson)"
            elif $event.type == "org.vmkpi.raw.v1" then $event.data.samples[] | select((.seq | tonumber) > $at)
                | "\(.time) \(.values // .data_base64 | tojson)"
            else empty end
          ) | "\($event.source) \($event.subject) \($event.specifier) \(.)"]
        ) catch ($before | .lines = []);  # no message of vmkpi
        .lines[])'
