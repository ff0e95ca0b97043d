#![no_main]
imgmount_fuzz::fuzz!("registry");
