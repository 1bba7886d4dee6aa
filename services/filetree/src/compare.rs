//! Says in what two trees differ.
