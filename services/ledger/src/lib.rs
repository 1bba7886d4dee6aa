//! Small durable state: generation, checksum, atomic replace.
