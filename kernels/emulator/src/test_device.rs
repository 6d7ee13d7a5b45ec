//! Which device tests of the CUDA path run on: an emulated one, or the machine's GPU where the
//! variable `FOLIO_TEST_DEVICE` is `nvidia`.
//!
//! What only the emulator can do (seeds, counters, memory of any size) is asked for by name, so
//! that a test on a GPU says what it left out.

use std::sync::Arc;

use folio_kernels::cuda::{Driver, NvidiaDriver};

use crate::{Emulator, EmulatorOptions};

/// Chooses the device.
const VARIABLE: &str = "FOLIO_TEST_DEVICE";

/// A device for a test, with what is special about it.
#[derive(Clone, Debug)]
pub struct TestDevice {
    /// What commands go to.
    pub driver: Arc<dyn Driver>,
    /// The same device where it is emulated: it counts what runs.
    pub emulator: Option<Arc<Emulator>>,
}

impl TestDevice {
    /// The device that the variable chooses; one that is emulated is made up as `options` says.
    ///
    /// # Panics
    ///
    /// Where a GPU is asked for and cannot be opened, with the reason; and for a value that is
    /// neither `nvidia` nor `emulator`.
    #[must_use]
    pub fn open(options: EmulatorOptions) -> Self {
        let wanted = std::env::var(VARIABLE).unwrap_or_default();
        match wanted.as_str() {
            "" | "emulator" => {
                let emulator = Emulator::with(options);
                Self { driver: Arc::clone(&emulator) as Arc<dyn Driver>, emulator: Some(emulator) }
            }
            "nvidia" => match NvidiaDriver::open(0) {
                Ok(driver) => Self { driver, emulator: None },
                Err(why) => panic!("{VARIABLE}=nvidia: {why}"),
            },
            _ => panic!("{VARIABLE}={wanted}: choose emulator or nvidia"),
        }
    }
}

/// The driver of the device that tests run on, an emulated one with default options.
#[must_use]
pub fn test_driver() -> Arc<dyn Driver> {
    TestDevice::open(EmulatorOptions::default()).driver
}

/// An emulated device for what no GPU offers. On a GPU there is none: then it is printed what the
/// test leaves out.
#[must_use]
#[allow(clippy::print_stdout, reason = "a test tells whoever runs it")]
pub fn emulator_only(options: EmulatorOptions, left_out: &str) -> Option<Arc<Emulator>> {
    let emulator = TestDevice::open(options).emulator;
    if emulator.is_none() {
        println!("left out on a GPU: {left_out}");
    }
    emulator
}
