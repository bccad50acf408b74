//! Dashboards and rules against a real Prometheus.
