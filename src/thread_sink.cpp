#include <dmaflow/thread_sink.hpp>

#include "cancellable.hpp"
#include "event.hpp"
#include "format_check.hpp"
#include "log.hpp"
#include "sys/sys.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <poll.h>

namespace dmaflow {
namespace {

constexpr std::uint32_t most = 32;

Deadline never() noexcept { return Deadline::at(Deadline::Clock::time_point::max()); }

}  // namespace

struct ThreadSink::Impl {
  Impl(Callback function, ThreadSinkOptions wanted, detail::Event made, Cancel stopper)
      : callback(std::move(function)), options(std::move(wanted)), event(std::move(made)), stop(std::move(stopper)) {}

  Callback callback;
  const ThreadSinkOptions options;
  const detail::Event event;  // worker to loop: free slot again, failed, idle
  const Cancel stop;          // loop to worker: ends the worker's waits outside the mutex
  StreamConfig config;
  std::thread worker;  // joinable: started
  std::atomic<std::uint64_t> dropped{0};

  // Shared by the loop's thread and the worker's.
  std::mutex mutex;
  std::condition_variable news;  // for the worker: a frame, or stopping
  std::array<Frame, most> ring;
  std::size_t first = 0;
  std::size_t count = 0;
  bool is_busy = false;  // the worker has a frame
  bool stopping = false;
  bool wants_room = false;  // the loop was told that no slot is free: it waits for the event
  bool displaces = false;   // the loop lets accept() displace frames (Policy::latest): it does not wait for a slot
  bool wants_idle = false;  // the loop is in drain()
  std::optional<Error> failure;
  bool is_told = false;  // a call has returned the failure

  [[nodiscard]] Error error(int code, const char* operation) const { return Error::os(code, operation, options.name); }
  [[nodiscard]] bool is_started() const noexcept { return worker.joinable(); }
  [[nodiscard]] Frame pop() noexcept {
    Frame frame = std::move(ring[first]);
    first = (first + 1) % most;
    --count;
    return frame;
  }
  /// Called with the mutex held.
  [[nodiscard]] Result<void> told() {
    if (!failure) return {};
    is_told = true;
    return std::unexpected(*failure);
  }
  void work() noexcept;
  [[nodiscard]] Result<void> call(Frame frame);
  [[nodiscard]] Result<void> handle(Frame frame);
};

// --- In the worker's thread ------------------------------------------------------------------------------------------

void ThreadSink::Impl::work() noexcept {
  sigset_t all;
  sigfillset(&all);
  static_cast<void>(sys::block_signals(all));
  sys::name_thread(options.name.c_str());
  std::unique_lock lock(mutex);
  while (true) {
    news.wait(lock, [this] { return stopping || count > 0; });
    if (stopping) return;
    Frame frame = pop();
    is_busy = true;
    const bool room_is_news = std::exchange(wants_room, false);
    lock.unlock();
    if (room_is_news) event.signal();
    auto done = handle(std::move(frame));
    lock.lock();
    is_busy = false;
    const bool was_cancelled = !done && stopping && done.error().code() == ECANCELED;
    if (!done && !was_cancelled) {
      failure = done.error();
      event.signal();
      return;
    }
    if (count == 0 && std::exchange(wants_idle, false)) event.signal();
  }
}

Result<void> ThreadSink::Impl::handle(Frame frame) {
  if (auto waited = frame.ready().wait(never(), &stop); !waited) {
    if (!stop.is_set()) {
      detail::log(LogLevel::warning, "%s: the fence of frame %llu failed: dropped", options.name.c_str(),
                  static_cast<unsigned long long>(frame.info().sequence));
    }
    ++dropped;
    return {};
  }
  auto done = call(std::move(frame));
  if (!done) ++dropped;
  return done;
}

Result<void> ThreadSink::Impl::call(Frame frame) {
  try {
    return callback(std::move(frame), stop);
  } catch (const std::bad_expected_access<Error>& thrown) {
    return std::unexpected(thrown.error());
  } catch (const std::exception& thrown) {
    return std::unexpected(error(EIO, "ThreadSink's function").detail("it threw: %s", thrown.what()));
  } catch (...) {
    return std::unexpected(error(EIO, "ThreadSink's function").detail("it threw what is no std::exception"));
  }
}

// --- In the loop's thread --------------------------------------------------------------------------------------------

ThreadSink::ThreadSink(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
ThreadSink::~ThreadSink() { stop(); }

Result<std::unique_ptr<ThreadSink>> ThreadSink::create(Callback callback, ThreadSinkOptions options) {
  const auto invalid = [&](const char* why) {
    return std::unexpected(Error::os(EINVAL, "ThreadSink::create", options.name).detail("%s", why));
  };
  if (!callback) return invalid("there is no function");
  if (options.queue < 1 || options.queue > most) return invalid("queue must be 1 to 32");
  if (options.max_held < 1 || options.max_held > most) return invalid("max_held must be 1 to 32");
  auto event = detail::Event::create(options.name);
  if (!event) return std::unexpected(event.error());
  auto stop = Cancel::create();
  if (!stop) return std::unexpected(stop.error().device(options.name));
  return std::unique_ptr<ThreadSink>(new ThreadSink(
      std::make_unique<Impl>(std::move(callback), std::move(options), std::move(*event), std::move(*stop))));
}

const StreamConfig& ThreadSink::config() const noexcept { return impl_->config; }
std::string_view ThreadSink::name() const noexcept { return impl_->options.name; }
Needs ThreadSink::needs() const { return impl_->options.needs; }
std::uint32_t ThreadSink::max_held() const noexcept { return impl_->options.queue + impl_->options.max_held; }
std::uint64_t ThreadSink::dropped() const noexcept { return impl_->dropped.load(std::memory_order_relaxed); }
int ThreadSink::poll_fd() const noexcept { return impl_->event.fd(); }
short ThreadSink::poll_events() const noexcept { return impl_->is_started() ? POLLIN : 0; }

Result<void> ThreadSink::check_input(const StreamConfig& config) {
  return detail::check_format(config.layout.format, impl_->options.formats, name());
}

Result<void> ThreadSink::set_input(const StreamConfig& config) {
  if (impl_->is_started()) {
    return std::unexpected(impl_->error(EBUSY, "ThreadSink::set_input").detail("it is started"));
  }
  if (auto checked = check_input(config); !checked) return checked;
  impl_->config = config;
  return {};
}

Result<void> ThreadSink::start(std::span<const Buffer>) {
  if (auto stopped = stop(); !stopped) return stopped;
  Impl& my = *impl_;
  my.stopping = my.wants_room = my.displaces = my.wants_idle = my.is_told = false;
  try {
    my.worker = std::thread([&my] { my.work(); });
  } catch (const std::system_error& refused) {
    return std::unexpected(my.error(refused.code().value(), "pthread_create"));
  }
  return {};
}

// A caller that gets false waits for the event, so the worker must signal it.
bool ThreadSink::ready() const noexcept {
  Impl& my = *impl_;
  if (!my.is_started()) return false;
  const std::lock_guard lock(my.mutex);
  if (my.failure) return false;
  const bool is_full = my.count >= my.options.queue;
  my.wants_room = is_full && !my.displaces;
  return !is_full;
}

Result<Frame> ThreadSink::accept(Frame frame) {
  Impl& my = *impl_;
  if (!my.is_started()) return std::unexpected(my.error(EINVAL, "ThreadSink::accept").detail("it is not started"));
  Frame displaced;
  {
    const std::lock_guard lock(my.mutex);
    if (auto failed = my.told(); !failed) return std::unexpected(failed.error());
    if (my.count >= my.options.queue) {
      displaced = my.pop();
      my.displaces = true;
      my.wants_room = false;
    }
    my.ring[(my.first + my.count) % most] = std::move(frame);
    ++my.count;
  }
  my.news.notify_one();  // no system call if the worker is busy
  return displaced;
}

Result<void> ThreadSink::flush() {
  const std::lock_guard lock(impl_->mutex);
  return impl_->told();
}

Result<void> ThreadSink::dispatch(short revents) {
  if ((revents & POLLIN) != 0) impl_->event.clear();
  return flush();
}

Result<void> ThreadSink::drain(Deadline deadline, const Cancel* cancel) {
  Impl& my = *impl_;
  while (true) {
    {
      const std::lock_guard lock(my.mutex);
      if (auto failed = my.told(); !failed) return failed;
      if (my.count == 0 && !my.is_busy) return {};
      my.wants_idle = true;
    }
    const int ready = detail::wait(my.event.fd(), POLLIN, deadline, cancel);
    if (ready > 0) {
      my.event.clear();
    } else if (ready < 0) {
      return std::unexpected(my.error(-ready, "ThreadSink::drain").detail("the function is still at work"));
    } else {
      return std::unexpected(my.error(ETIMEDOUT, "ThreadSink::drain").detail("the function is still at work"));
    }
  }
}

Result<void> ThreadSink::stop() noexcept {
  Impl& my = *impl_;
  if (!my.is_started()) return {};
  {
    const std::lock_guard lock(my.mutex);
    my.stopping = true;
    my.dropped += my.count;
    while (my.count > 0) my.pop().release();
  }
  my.news.notify_one();
  my.stop.cancel();
  my.worker.join();
  my.stop.reset();
  my.event.clear();
  const auto failure = std::exchange(my.failure, std::nullopt);
  return failure && !my.is_told ? std::unexpected(*failure) : Result<void>{};
}

}  // namespace dmaflow
