//! From nothing to a device that can compute, or a sentence that says why not.

use std::path::PathBuf;

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute};

use super::calls::{self, check};
use super::modules::{Fatbin, embedded_fatbins};
use crate::cuda::driver::{Device, DriverError, Result};

/// Whether a kernel may start while the one before it in the stream finishes. Kernels wait by
/// themselves before they read, so that results are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// Where the device can: compute capability 9.0, whose machine code has the waiting in it.
    Allowed,
    /// Never: to find out whether a fault hangs on it.
    Off,
}

/// How to open a device.
#[derive(Clone, Debug)]
pub struct NvidiaOptions {
    /// Which device, in the driver's counting.
    pub ordinal: usize,
    /// Whether kernels may overlap.
    pub overlap: Overlap,
    /// Where to keep which cuBLASLt algorithm was fastest, from one start to the next; `None`
    /// measures at every start. The file is rewritten when device, driver or library change.
    pub tuning_file: Option<PathBuf>,
    /// The compiled kernels.
    pub fatbins: &'static [Fatbin],
}

impl NvidiaOptions {
    /// A device with the kernels that are built into the program.
    #[must_use]
    pub fn new(ordinal: usize) -> Self {
        Self { ordinal, overlap: Overlap::Allowed, tuning_file: None, fatbins: embedded_fatbins() }
    }
}

/// Why a device cannot be used, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// There is no driver library.
    NoDriver,
    /// The driver is for an older CUDA than the kernels were compiled with.
    OldDriver {
        /// The CUDA that it is for, 1000 times the major and 10 times the minor version.
        version: i32,
    },
    /// The library is no whole driver.
    MissingSymbol {
        /// What it lacks.
        symbol: &'static str,
    },
    /// The driver sees no device.
    NoDevice,
    /// There are devices, but not so many.
    NoSuchDevice {
        /// Which was asked for.
        ordinal: usize,
        /// How many there are.
        num_devices: usize,
    },
    /// The device is older than the kernels are written for.
    OldDevice {
        /// Its name.
        name: String,
        /// Its compute capability.
        capability: (u32, u32),
    },
    /// A call failed.
    Driver(DriverError),
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoDriver => {
                f.write_str("no NVIDIA driver: libcuda.so.1 is not where libraries are looked for")
            }
            Self::OldDriver { version } => {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                write!(f, "the NVIDIA driver is for CUDA {major}.{minor}; CUDA 13.0 is needed")?;
                f.write_str(" (driver 580 or newer)")
            }
            Self::MissingSymbol { symbol } => {
                write!(f, "libcuda.so.1 is no whole NVIDIA driver: it has no {symbol}")
            }
            Self::NoDevice => f.write_str("the NVIDIA driver sees no device"),
            Self::NoSuchDevice { ordinal, num_devices } => {
                write!(f, "there is no CUDA device {ordinal}: the driver sees {num_devices}")
            }
            Self::OldDevice { name, capability: (major, minor) } => {
                write!(f, "{name} has compute capability {major}.{minor}; 8.0 is needed")
            }
            Self::Driver(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<DriverError> for OpenError {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

/// What device `ordinal` is, if it can be used. Costs one initialisation of the driver, allocates
/// nothing on the device, and never panics: what `--device auto` asks.
pub fn probe(ordinal: usize) -> std::result::Result<Device, OpenError> {
    find(ordinal).map(|(_, device)| device)
}

/// The device's handle, and what it is.
pub(super) fn find(ordinal: usize) -> std::result::Result<(CUdevice, Device), OpenError> {
    calls::initialise()?;
    let mut count = 0;
    // SAFETY: writes one integer.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    let num_devices = count.max(0) as usize;
    if num_devices == 0 {
        return Err(OpenError::NoDevice);
    }
    if ordinal >= num_devices {
        return Err(OpenError::NoSuchDevice { ordinal, num_devices });
    }
    let mut handle = 0;
    // SAFETY: writes one integer.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut handle, ordinal as i32) })?;
    let device = describe(handle)?;
    if device.capability < (8, 0) {
        return Err(OpenError::OldDevice { name: device.name, capability: device.capability });
    }
    Ok((handle, device))
}

fn describe(handle: CUdevice) -> Result<Device> {
    use CUdevice_attribute as A;
    let mut name = [0_u8; 256];
    let length = name.len() as i32;
    // SAFETY: writes at most `length` bytes, the last of them zero.
    let result = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), length, handle) };
    check("cuDeviceGetName", result)?;
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(Device {
        name: String::from_utf8_lossy(name).into_owned(),
        capability: (
            attribute(handle, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(handle, A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        num_multiprocessors: attribute(handle, A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        max_shared_bytes: attribute(
            handle,
            A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?,
    })
}

/// One number about a device.
pub(super) fn attribute(handle: CUdevice, which: CUdevice_attribute) -> Result<u32> {
    let mut value = 0;
    // SAFETY: writes one integer.
    let result = unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, handle) };
    check("cuDeviceGetAttribute", result)?;
    Ok(value.max(0) as u32)
}
