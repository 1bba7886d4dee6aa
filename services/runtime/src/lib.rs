//! Daemon kit: config, logging, readiness, watchdog, shutdown, Job objects, error mapping.
