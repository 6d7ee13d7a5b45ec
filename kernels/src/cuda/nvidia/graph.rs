//! Capturing what a stream is told, and replaying it.

use std::ptr;

use cudarc::driver::sys::{self, CUgraph, CUgraphExec, CUstream, CUstreamCaptureMode};

use super::calls::check;
use crate::cuda::driver::Result;

/// A captured sequence of commands, ready to be launched.
#[derive(Debug)]
pub(super) struct Graph(CUgraphExec);

/// From here to [`end_capture`], commands of `stream` are noted. What would wait for the device or
/// allocate from it on this thread fails meanwhile, and only on this thread.
pub(super) fn begin_capture(stream: CUstream) -> Result<()> {
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: a stream of the current context.
    check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(stream, mode) })
}

/// Ends a capture and makes what was noted ready on the device, so that the first replay is as
/// fast as the others.
pub(super) fn end_capture(stream: CUstream) -> Result<Graph> {
    let mut template = ptr::null_mut();
    // SAFETY: writes one handle.
    let result = unsafe { sys::cuStreamEndCapture(stream, &raw mut template) };
    check("cuStreamEndCapture", result)?;
    let graph = instantiate(template);
    // SAFETY: made above, destroyed once; the executable form stands by itself.
    let _ = unsafe { sys::cuGraphDestroy(template) };
    let graph = graph?;
    // SAFETY: both belong to the current context.
    check("cuGraphUpload", unsafe { sys::cuGraphUpload(graph.0, stream) })?;
    Ok(graph)
}

fn instantiate(template: CUgraph) -> Result<Graph> {
    let mut graph = ptr::null_mut();
    // SAFETY: writes one handle.
    let result = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut graph, template, 0) };
    check("cuGraphInstantiate", result)?;
    Ok(Graph(graph))
}

impl Graph {
    /// Appends all of it to a stream.
    ///
    /// # Safety
    /// All memory that the captured commands name is still valid for what they do.
    pub(super) unsafe fn launch(&self, stream: CUstream) -> Result<()> {
        // SAFETY: the caller's promise; both belong to the current context.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.0, stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `instantiate`, destroyed once; a launch that is under way keeps what it
        // needs.
        let _ = unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}
