//! `mq-embedded` for Python: open, send, poll, acknowledge. `mq_embedded.pyi` tells what each does.
//! Whatever waits or touches the disk lets other Python threads run.

use std::time::{Duration, Instant};

use ::mq_embedded::{
    Consumer as Member, Delivery as Delivered, ErrorKind, Flush, Message, Mq as Store,
};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

create_exception!(mq_embedded, MqError, PyException);

/// The exceptions by kind, all of them `MqError`s.
macro_rules! exceptions {
    ($($kind:ident),*) => {
        $(create_exception!(mq_embedded, $kind, MqError);)*

        fn failed(e: ::mq_embedded::Error) -> PyErr {
            match e.kind() {
                $(ErrorKind::$kind => $kind::new_err(e.to_string()),)*
                _ => MqError::new_err(e.to_string()),
            }
        }

        fn add_exceptions(m: &Bound<'_, PyModule>) -> PyResult<()> {
            $(m.add(stringify!($kind), m.py().get_type::<$kind>())?;)*
            m.add("MqError", m.py().get_type::<MqError>())
        }
    };
}
exceptions!(
    NotFound, Invalid, Denied, Closed, Locked, Full, Busy, Timeout, Io, Damaged, Unsupported
);

fn settled() -> PyErr {
    Invalid::new_err("the message was acknowledged or given back; read what is needed before that")
}

fn closed() -> PyErr {
    Closed::new_err("the consumer is closed; ask the Mq for another")
}

/// How long a Ctrl-C, or `close` on another thread, may have to wait for who polls.
const HEED: Duration = Duration::from_millis(100);

#[pyclass(get_all, frozen)]
struct Sent {
    id: String,
    queue_id: i32,
    queue_offset: u64,
}

#[pyclass]
struct Delivery(Option<Delivered>);

impl Delivery {
    fn get(&self) -> PyResult<&Delivered> {
        self.0.as_ref().ok_or_else(settled)
    }
    fn take(&mut self) -> PyResult<Delivered> {
        self.0.take().ok_or_else(settled)
    }
}

#[pymethods]
impl Delivery {
    #[getter]
    fn id(&self) -> PyResult<String> {
        Ok(self.get()?.id())
    }
    #[getter]
    fn topic(&self) -> PyResult<&str> {
        Ok(self.get()?.topic())
    }
    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.get()?.content().map_err(failed)?))
    }
    #[getter]
    fn tag(&self) -> PyResult<Option<&str>> {
        Ok(self.get()?.tag())
    }
    #[getter]
    fn keys(&self) -> PyResult<Option<&str>> {
        Ok(self.get()?.keys())
    }
    #[getter]
    fn queue_id(&self) -> PyResult<i32> {
        Ok(self.get()?.queue_id())
    }
    #[getter]
    fn queue_offset(&self) -> PyResult<u64> {
        Ok(self.get()?.queue_offset())
    }
    #[getter]
    fn reconsume_times(&self) -> PyResult<i32> {
        Ok(self.get()?.reconsume_times())
    }
    fn ack(&mut self) -> PyResult<()> {
        self.take()?.ack();
        Ok(())
    }
    fn retry(&mut self, py: Python<'_>) -> PyResult<()> {
        let delivery = self.take()?;
        py.detach(|| delivery.retry()).map_err(failed)
    }
}

#[pyclass(frozen)]
struct Consumer(std::sync::RwLock<Option<Member>>);

#[pymethods]
impl Consumer {
    #[pyo3(signature = (max = 1, timeout = 1.0))]
    fn poll(&self, py: Python<'_>, max: usize, timeout: f64) -> PyResult<Vec<Delivery>> {
        let timeout = Duration::try_from_secs_f64(timeout)
            .map_err(|e| PyValueError::new_err(format!("timeout: {e}")))?;
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let left = deadline.map_or(HEED, |d| d.saturating_duration_since(Instant::now()));
            let found = py.detach(|| {
                let member = self.0.read().map_err(|_| closed())?;
                let member = member.as_ref().ok_or_else(closed)?;
                member.poll(max, left.min(HEED)).map_err(failed)
            })?;
            if !found.is_empty() || left.is_zero() {
                return Ok(found.into_iter().map(|d| Delivery(Some(d))).collect());
            }
            py.check_signals()?;
        }
    }
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            drop(self.0.write().map_err(|_| closed())?.take());
            Ok(())
        })
    }
    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<Py<PyAny>>,
        _error: Option<Py<PyAny>>,
        _trace: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        self.close(py)
    }
}

#[pyclass(frozen)]
struct Mq(Store);

#[pymethods]
impl Mq {
    #[new]
    #[pyo3(signature = (folder, sync = false))]
    fn new(py: Python<'_>, folder: std::path::PathBuf, sync: bool) -> PyResult<Mq> {
        py.detach(|| {
            let builder = Store::builder();
            let builder = if sync { builder.flush(Flush::Sync) } else { builder };
            builder.open(folder).map(Mq).map_err(failed)
        })
    }
    #[pyo3(signature = (topic, body, tag = None, keys = None))]
    fn send(
        &self,
        py: Python<'_>,
        topic: &str,
        body: &[u8],
        tag: Option<&str>,
        keys: Option<&str>,
    ) -> PyResult<Sent> {
        let mut message = Message::new(topic, body);
        message = tag.into_iter().fold(message, |m, tag| m.tag(tag));
        message = keys.into_iter().fold(message, |m, keys| m.key(keys));
        let sent = py.detach(|| self.0.producer().send(&message)).map_err(failed)?;
        Ok(Sent { id: sent.id(), queue_id: sent.queue_id(), queue_offset: sent.queue_offset() })
    }
    #[pyo3(signature = (group, topic, tags = "*"))]
    fn consumer(&self, py: Python<'_>, group: &str, topic: &str, tags: &str) -> PyResult<Consumer> {
        let start = || self.0.consumer(group).subscribe(topic, tags).start();
        Ok(Consumer(Some(py.detach(start).map_err(failed)?).into()))
    }
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.close()).map_err(failed)
    }
    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }
    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: Option<Py<PyAny>>,
        _error: Option<Py<PyAny>>,
        _trace: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        self.close(py)
    }
}

#[pymodule]
fn mq_embedded(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Mq>()?;
    m.add_class::<Consumer>()?;
    m.add_class::<Delivery>()?;
    m.add_class::<Sent>()?;
    add_exceptions(m)
}
