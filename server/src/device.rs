//! Where models are computed: the GPU that is there, or the processor.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use folio_engine::exec::{
    CudaOptions, Determinism, DeviceOptions, Driver, Element, Graphs, MemoryPlan, NvidiaDriver,
    OpenError, SwapChoice, SwapRates,
};
use folio_engine::model::ModelConfig;

use crate::args::{Device, Dtype, EngineArgs};

/// A device, and what there is to say about it.
pub(crate) struct Chosen {
    /// What the engine is told.
    pub options: DeviceOptions,
    /// Bytes that it has free for us now; `None` where nobody says.
    pub available_bytes: Option<u64>,
    /// What it is, in one line.
    pub line: String,
    /// What the operator should know about it.
    pub notes: Vec<String>,
}

/// The device that the flags ask for.
pub(crate) fn choose(engine: &EngineArgs, dtype: Dtype, configs: &[ModelConfig]) -> Result<Chosen> {
    let utilization = engine.gpu_memory_utilization;
    ensure!(
        utilization > 0.0 && utilization <= 1.0,
        "--gpu-memory-utilization {utilization} must be above 0 and at most 1"
    );
    match engine.device {
        Device::Cpu => cpu(engine, dtype, None),
        Device::Cuda => {
            let driver = NvidiaDriver::open(0).context("--device cuda")?;
            cuda(driver, engine, element(dtype, configs))
        }
        Device::Auto => match NvidiaDriver::open(0) {
            Ok(driver) => cuda(driver, engine, element(dtype, configs)),
            Err(why) => cpu(engine, dtype, Some(why)),
        },
    }
}

/// `why` there is no GPU, where one was looked for.
fn cpu(engine: &EngineArgs, dtype: Dtype, why: Option<OpenError>) -> Result<Chosen> {
    ensure!(
        dtype == Dtype::Auto,
        "--dtype {} is for GPUs; the CPU computes in single precision with weights as they are \
         stored: leave it at auto",
        dtype.name()
    );
    let num_threads = num_threads(engine)?;
    let threads = if num_threads == 1 { "thread" } else { "threads" };
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    Ok(Chosen {
        options: DeviceOptions::Cpu { num_threads },
        available_bytes: available_bytes(),
        line: format!("the CPU, {num_threads} {threads}{why}"),
        notes: Vec::new(),
    })
}

fn cuda(driver: Arc<dyn Driver>, engine: &EngineArgs, element: Element) -> Result<Chosen> {
    let memory = driver.memory()?;
    // What others use counts against the share too.
    let reserved = memory.total_bytes as f64 * (1.0 - f64::from(engine.gpu_memory_utilization));
    let available_bytes = memory.free_bytes.saturating_sub(reserved as u64);
    let device = driver.device();
    let mut notes = Vec::new();
    let library = match driver.matmul_library() {
        Ok(library) => library,
        Err(why) => {
            notes.push(format!("matrix products run on Folio's own kernels: {why}"));
            "own matrix products".to_owned()
        }
    };
    let options = CudaOptions {
        element,
        determinism: if engine.deterministic { Determinism::Fixed } else { Determinism::Fast },
        graphs: if engine.enforce_eager { Graphs::Off } else { Graphs::Captured },
    };
    let line = format!("{}, {}, {library}", device.name, element.suffix());
    let options = DeviceOptions::Cuda { driver, options };
    Ok(Chosen { options, available_bytes: Some(available_bytes), line, notes })
}

/// How preempted sequences are treated on a GPU, given `host_bytes` to save them in.
pub(crate) fn swap(
    options: &DeviceOptions,
    configs: &[ModelConfig],
    plan: &MemoryPlan,
    host_bytes: u64,
) -> Result<Option<SwapChoice>> {
    let DeviceOptions::Cuda { driver, .. } = options else { return Ok(None) };
    if host_bytes == 0 {
        return Ok(None);
    }
    Ok(SwapChoice::new(SwapRates::measure(driver)?, configs, plan, host_bytes))
}

/// What a GPU computes in: all models alike, by default as the first asks for.
fn element(dtype: Dtype, configs: &[ModelConfig]) -> Element {
    match dtype {
        Dtype::Bfloat16 => Element::Bf16,
        Dtype::Float16 => Element::F16,
        Dtype::Auto => match configs.first() {
            Some(config) => CudaOptions::element_for(config.dtype()),
            None => Element::Bf16,
        },
    }
}

/// Memory that can be taken without swapping, where the system says.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn num_threads(engine: &EngineArgs) -> Result<usize> {
    match engine.threads {
        Some(0) => bail!("--threads must be at least 1"),
        Some(threads) => Ok(threads),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}
