#![no_main]
imgmount_fuzz::fuzz!("pax");
