//! The HTTP side: routing from a request to the handler that answers it.

pub mod exchange;
pub mod revproxy;
pub mod server;
// pub mod status;
pub mod tls;
