//! Makes trees with everything real servers have.
