//! The `imgmount` program.

fn main() {}
