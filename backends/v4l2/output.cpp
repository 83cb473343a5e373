// Output: a V4L2 video output device as a Sink. Frames are imported, queued once their fences have signalled, and
// released when the device is done with them.
#include "agreed.hpp"
#include "choose.hpp"
#include "device.hpp"
#include "fences.hpp"
#include "formats.hpp"
#include "ports.hpp"
#include "queue.hpp"
#include "stream_format.hpp"
#include "sys/sys.hpp"

#include <dmaflow/attachment.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <poll.h>

namespace dmaflow::v4l2 {
namespace {

constexpr std::uint32_t no_slot = ~0U;

/// Attached to each buffer that the device has accepted: its slot while streaming. Used by the loop's thread only.
class OutputMark final : public Attachment {
 public:
  void tear_down() noexcept override {}
  std::uint32_t slot = no_slot;
  std::uint64_t configured = 0;  ///< the configuration it was tried for
  std::uint64_t run = 0;         ///< the run in which it has the slot
};

/// Reports of presented frames that were not taken yet; if there are too many, the oldest are dropped.
class Reports {
 public:
  void add(const Presentation& report) noexcept {
    entries_[(first_ + count_) % entries_.size()] = report;
    if (count_ < entries_.size()) {
      ++count_;
    } else {
      first_ = (first_ + 1) % entries_.size();
    }
  }
  std::size_t take(std::span<Presentation> out) noexcept {
    const std::size_t taken = std::min(out.size(), count_);
    for (std::size_t i = 0; i < taken; ++i) out[i] = entries_[(first_ + i) % entries_.size()];
    first_ = (first_ + taken) % entries_.size();
    count_ -= taken;
    return taken;
  }
  void clear() noexcept { first_ = count_ = 0; }

 private:
  std::array<Presentation, 64> entries_{};
  std::size_t first_ = 0;
  std::size_t count_ = 0;
};

}  // namespace

struct Output::Impl {
  Impl(Device opened, const Options& wanted)
      : device(std::move(opened)), state(device), depth(wanted.depth), fixed_port(!wanted.output.empty()) {}

  Device device;
  PortState state;
  std::uint32_t depth;
  bool fixed_port;
  std::uint32_t port = 0;  // the requested one
  Queue queue{device};
  std::shared_ptr<AttachmentDomain> domain = AttachmentDomain::create();
  std::optional<Agreed> agreed;
  StreamConfig config;
  std::uint64_t configured = 0;
  std::uint64_t run = 0;

  // while started
  bool started = false;
  std::array<bool, max_slots> is_taken{};  // slots that have a buffer
  Frame waiting;                           // accepted, not yet queued
  std::uint64_t dropped = 0;               // its fence failed, the driver refused it, or it waited at stop()
  std::array<Frame, max_slots> in_device;  // by slot
  Reports reports;

  static Result<std::unique_ptr<Output>> make(Result<Device> device, const Options& options);
  Result<OutputMark*> mark(const Buffer& buffer);
  Result<void> try_import(const Buffer& buffer);
  std::uint32_t slot_of(const Frame& frame) const noexcept;
  bool has_place() const noexcept;
  Result<void> submit();
  int waiting_fence() const noexcept;
  Result<void> collect();
  Deadline last_frame_deadline(Deadline deadline) const noexcept;
  Result<void> fill_slots(std::span<const Buffer> buffers);
  Result<void> give_slot(std::uint32_t slot, const Buffer& buffer);
  Result<std::uint32_t> free_slot();
};

// --- opening

Result<std::unique_ptr<Output>> Output::Impl::make(Result<Device> device, const Options& options) {
  if (!device) return std::unexpected(device.error());
  if (options.depth < 2 || options.depth > 32) {
    return std::unexpected(
        device->error(EINVAL, "open").detail("depth is %u; 2 to 32 frames may be queued", options.depth));
  }
  auto impl = std::make_unique<Impl>(std::move(*device), options);
  if (!options.output.empty()) {
    auto port = go_to_port(impl->device, options.output);
    if (!port) return std::unexpected(port.error());
    impl->port = port->index;
  }
  return std::unique_ptr<Output>(new Output(std::move(impl)));
}

Result<std::unique_ptr<Output>> Output::open(std::string_view path, const Options& options) {
  return Impl::make(Device::open(path, Direction::output), options);
}
Result<std::unique_ptr<Output>> Output::open(std::string_view path) { return open(path, {}); }
Result<std::unique_ptr<Output>> Output::adopt(Fd fd, const Options& options) {
  return Impl::make(Device::adopt(std::move(fd), Direction::output), options);
}

Output::Output(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}

Output::~Output() {
  (void)stop();
  impl_->domain->detach();
}

std::string_view Output::name() const noexcept { return impl_->device.name(); }
const DeviceInfo& Output::info() const noexcept { return impl_->device.info(); }
Result<std::vector<Format>> Output::formats() const { return list_formats(impl_->device); }
Result<std::vector<Port>> Output::outputs() const { return ports(impl_->device); }
std::uint64_t Output::dropped() const noexcept { return impl_->dropped; }
std::uint32_t Output::max_held() const noexcept { return impl_->depth + 1; }

// --- negotiation

Result<void> Output::check_input(const StreamConfig& config) {
  auto code = code_for(impl_->device, config);
  if (!code) return std::unexpected(code.error());
  return {};
}

Result<void> Output::set_input(const StreamConfig& config) {
  Impl& my = *impl_;
  if (my.started) return std::unexpected(my.device.error(EBUSY, "set_input").detail("it is started: stop() it first"));
  if (auto closed = my.queue.close(); !closed) return closed;
  my.agreed.reset();
  if (my.fixed_port) {  // stop() restored the earlier one
    if (auto set = set_port(my.device, my.port); !set) return set;
  }
  if (auto known = check_input(config); !known) return known;
  StreamRequest request;
  request.size = config.layout.size;
  request.formats = {config.layout.format};
  auto found = choose(my.device, request, my.fixed_port ? Search::this_port : Search::all_ports, my.state);
  if (!found) return std::unexpected(found.error());
  auto code = code_for(my.device, config);  // for the chosen connector
  if (!code) return std::unexpected(code.error());
  if (auto set = StreamFormat::set(my.device, config.layout, *code); !set) return std::unexpected(set.error());
  auto now = Agreed::read(my.device);  // read back, as the camera does
  if (!now) return std::unexpected(now.error());
  const StreamFormat& set = now->format;
  auto made = set.config(my.device);
  if (!made) return std::unexpected(made.error());
  const Layout& wanted = config.layout;
  if (set.size != wanted.size || made->layout.format != wanted.format) {
    return std::unexpected(my.device.error(EINVAL, "VIDIOC_S_FMT")
                               .detail("asked for %ux%u %s, the device insists on %ux%u %s", wanted.size.width,
                                       wanted.size.height, wanted.format.code().c_str(), set.size.width,
                                       set.size.height, made->layout.format.code().c_str()));
  }
  for (std::uint32_t i = 0; i < wanted.plane_count; ++i) {
    if (wanted.planes[i].stride != 0 && wanted.planes[i].stride != made->layout.planes[i].stride) {
      return std::unexpected(my.device.error(EINVAL, "VIDIOC_S_FMT")
                                 .detail("plane %u has stride %u, the device insists on %u", i, wanted.planes[i].stride,
                                         made->layout.planes[i].stride));
    }
  }
  my.agreed = *now;
  my.config = *made;
  my.config.interval = set_interval(my.device, config.interval);
  ++my.configured;
  return {};
}

Result<OutputMark*> Output::Impl::mark(const Buffer& buffer) {
  if (auto* found = attachment_as<OutputMark>(buffer, *domain)) return found;
  auto attached = buffer.attach(domain, std::make_unique<OutputMark>());
  if (!attached) return std::unexpected(attached.error());
  return static_cast<OutputMark*>(*attached);
}

Result<void> Output::import(const Buffer& buffer) {
  Impl& my = *impl_;
  if (!my.agreed) return std::unexpected(my.device.error(EINVAL, "import").detail("set_input() comes first"));
  if (auto fits = my.agreed->format.check(buffer, my.config, my.device); !fits) return fits;
  auto mark = my.mark(buffer);
  if (!mark) return std::unexpected(mark.error());
  if ((*mark)->configured == my.configured) return {};
  if (my.started) return std::unexpected(my.device.error(EBUSY, "import").detail("a buffer it was not started with"));
  if (auto tried = my.try_import(buffer); !tried) return tried;
  (*mark)->configured = my.configured;
  return {};
}

/// As the camera does: QBUF attaches and maps even while the stream is off, and REQBUFS 0 undoes it.
Result<void> Output::Impl::try_import(const Buffer& buffer) {
  auto slots = request_as_agreed(device, queue, *agreed, V4L2_MEMORY_DMABUF, 1);
  if (!slots) return std::unexpected(slots.error());
  queue.pair(0, buffer, agreed->format);
  auto queued = queue.queue(0);
  auto closed = queue.close();
  if (!queued) return std::unexpected(explain_import(queued.error(), buffer));
  return closed;
}

// --- streaming

Result<void> Output::start(std::span<const Buffer> buffers) {
  Impl& my = *impl_;
  if (my.started) return std::unexpected(my.device.error(EBUSY, "start").detail("it is started already"));
  if (buffers.empty() || buffers.size() > max_slots) {
    return std::unexpected(
        my.device.error(EINVAL, "start").detail("%zu buffers given; 1 to %u may be", buffers.size(), max_slots));
  }
  if (!my.agreed && my.configured != 0) {  // stop() restored the device's settings
    if (auto again = set_input(StreamConfig(my.config)); !again) return again;
  }
  for (const Buffer& buffer : buffers) {
    if (auto imported = import(buffer); !imported) return imported;
  }
  auto running = my.fill_slots(buffers);
  if (running) running = my.queue.stream_on();
  if (!running) {
    (void)my.queue.close();
    return running;
  }
  my.reports.clear();
  my.started = true;
  return {};
}

Result<void> Output::Impl::fill_slots(std::span<const Buffer> buffers) {
  const auto count = static_cast<std::uint32_t>(buffers.size());
  auto slots = request_as_agreed(device, queue, *agreed, V4L2_MEMORY_DMABUF, count);
  if (!slots) return std::unexpected(slots.error());
  if (*slots < count) {
    return std::unexpected(device.error(EINVAL, "VIDIOC_REQBUFS")
                               .detail("%u buffers given, but the driver takes %u at most", count, *slots));
  }
  config.interval = restore_interval(device, config.interval);
  ++run;
  is_taken = {};
  for (std::uint32_t i = 0; i < count; ++i) {
    if (auto given = give_slot(i, buffers[i]); !given) return given;
  }
  return {};
}

Result<void> Output::Impl::give_slot(std::uint32_t slot, const Buffer& buffer) {
  auto found = mark(buffer);
  if (!found) return std::unexpected(found.error());
  (*found)->slot = slot;
  (*found)->run = run;
  queue.pair(slot, buffer, agreed->format);
  is_taken[slot] = true;
  return {};
}

/// The slot of a removed buffer, else a new one.
Result<std::uint32_t> Output::Impl::free_slot() {
  for (std::uint32_t i = 0; i < queue.slots(); ++i) {
    if (!is_taken[i]) return i;
  }
  std::uint32_t count = 1;
  if (queue.slots() < max_slots) {
    auto first = queue.extend(count, agreed->format.raw);
    if (first && count == 1 && *first < max_slots) return first;
    if (!first) {
      return std::unexpected(
          device.error(ENOBUFS, "VIDIOC_CREATE_BUFS")
              .detail("the driver makes no slot for a buffer that comes later: %s", first.error().message().c_str()));
    }
  }
  return std::unexpected(device.error(ENOBUFS, "VIDIOC_CREATE_BUFS")
                             .detail("its queue has %u slots, the most there may be", queue.slots()));
}

Result<void> Output::add_buffer(const Buffer& buffer) {
  Impl& my = *impl_;
  if (!my.started) return import(buffer);
  const OutputMark* mark = attachment_as<OutputMark>(buffer, *my.domain);
  if (mark != nullptr && mark->run == my.run) return {};
  if (auto fits = my.agreed->format.check(buffer, my.config, my.device); !fits) return fits;
  const auto slot = my.free_slot();
  if (!slot) return std::unexpected(slot.error());
  return my.give_slot(*slot, buffer);
}

// The driver keeps the memory until the slot is used again, or the stream stops.
void Output::remove_buffer(const Buffer& buffer) noexcept {
  auto* mark = attachment_as<OutputMark>(buffer, *impl_->domain);
  if (!impl_->started || mark == nullptr || mark->run != impl_->run) return;
  impl_->is_taken[mark->slot] = false;
  mark->run = 0;
}

bool Output::ready() const noexcept {
  const Impl& my = *impl_;
  return my.started && !my.waiting;
}

Result<Frame> Output::accept(Frame frame) {
  Impl& my = *impl_;
  if (!my.started) return std::unexpected(my.device.error(EINVAL, "accept").detail("start() comes first"));
  const OutputMark* mark = frame ? attachment_as<OutputMark>(frame.buffer(), *my.domain) : nullptr;
  if (mark == nullptr || mark->run != my.run) {
    return std::unexpected(my.device.error(EINVAL, "accept").detail("a frame in a buffer it was not started with"));
  }
  Frame displaced = std::exchange(my.waiting, std::move(frame));
  return displaced;
}

std::uint32_t Output::Impl::slot_of(const Frame& frame) const noexcept {
  return attachment_as<OutputMark>(frame.buffer(), *domain)->slot;
}

/// True if a frame is waiting and only its fence can delay it: the depth is not reached, and its buffer is not still in
/// the device with an earlier image.
bool Output::Impl::has_place() const noexcept {
  return waiting && queue.queued() < depth && !in_device[slot_of(waiting)];
}

int Output::Impl::waiting_fence() const noexcept { return has_place() ? waiting.ready().poll_fd() : -1; }

Result<void> Output::Impl::submit() {
  if (!has_place()) return {};
  if (!waiting.ready().is_null()) {
    const auto status = ended_as(waiting.ready(), device, "the fence of a frame to be shown");
    if (!status) return std::unexpected(status.error());
    if (*status == Fence::State::failed) {
      ++dropped;
      waiting.release();
    }
    if (*status != Fence::State::signalled) return {};
  }
  const std::uint32_t slot = slot_of(waiting);
  auto queued = queue.queue(slot, waiting.info().timestamp);
  if (!queued) {
    waiting.release();
    ++dropped;
    return queued;
  }
  in_device[slot] = std::exchange(waiting, {});
  return {};
}

Result<void> Output::flush() { return impl_->submit(); }
int Output::waiting_fence() const noexcept { return impl_->started ? impl_->waiting_fence() : -1; }

int Output::poll_fd() const noexcept { return impl_->device.fd(); }

short Output::poll_events() const noexcept {
  const Impl& my = *impl_;
  return my.started && my.queue.queued() > 0 ? short{POLLOUT} : short{0};
}

Result<void> Output::dispatch(short revents) {
  Impl& my = *impl_;
  if (!my.started) return {};
  if ((revents & (POLLOUT | POLLERR | POLLHUP)) != 0) {
    if (auto collected = my.collect(); !collected) return collected;
  }
  return flush();
}

/// One DQBUF per call: if more frames are done, the descriptor becomes ready again.
Result<void> Output::Impl::collect() {
  if (queue.queued() == 0) return {};
  Dequeued done;
  const auto is_done = queue.dequeue(done);
  if (!is_done) return std::unexpected(is_done.error());
  if (!*is_done) return {};
  Frame frame = std::move(in_device[done.slot]);
  Presentation report = Presentation::of(frame.info());
  // A device that copies timestamps returns ours; then the current time is the best estimate.
  const bool own = (done.flags & V4L2_BUF_FLAG_TIMESTAMP_MASK) == V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
  report.presented = own ? done.timestamp : Deadline::Clock::now().time_since_epoch();
  if ((done.flags & V4L2_BUF_FLAG_ERROR) == 0) reports.add(report);
  return {};
}

std::size_t Output::take_presented(std::span<Presentation> out) noexcept { return impl_->reports.take(out); }

/// Devices like vivid keep and show the last frame until another comes: it is waited for no longer than this.
Deadline Output::Impl::last_frame_deadline(Deadline deadline) const noexcept {
  constexpr auto usual = std::chrono::milliseconds(200);
  return Deadline::at(std::min(deadline.time(), Deadline::Clock::now() + usual));
}

Result<void> Output::drain(Deadline deadline, const Cancel* cancel) {
  Impl& my = *impl_;
  while (my.started) {
    if (auto submitted = my.submit(); !submitted) return submitted;
    const bool waits = static_cast<bool>(my.waiting);
    if (!waits && my.queue.queued() == 0) break;
    const bool is_last = !waits && my.queue.queued() == 1;
    // An empty queue reports POLLERR, so it is left out.
    std::array<pollfd, 3> polls{{{.fd = my.queue.queued() > 0 ? my.device.fd() : -1, .events = POLLOUT, .revents = 0},
                                 {.fd = my.waiting_fence(), .events = POLLIN, .revents = 0},
                                 {.fd = cancel != nullptr ? cancel->poll_fd() : -1, .events = POLLIN, .revents = 0}}};
    const int ready = sys::wait(polls, is_last ? my.last_frame_deadline(deadline) : deadline);
    if (ready < 0) return std::unexpected(my.device.error(-ready, "poll"));
    if (ready == 0 && is_last && deadline.remaining() > Deadline::Clock::duration::zero()) break;
    if (ready == 0) {
      return std::unexpected(my.device.error(ETIMEDOUT, "drain")
                                 .detail("%u frames are still in the device%s", my.queue.queued(),
                                         waits ? ", one waits for its fence or for a place" : ""));
    }
    if (polls[0].revents == 0 && polls[1].revents == 0 && polls[2].revents != 0) {
      return std::unexpected(my.device.error(ECANCELED, "drain"));
    }
    if (polls[0].revents == 0) continue;
    if (auto collected = my.collect(); !collected) return collected;
  }
  return {};
}

Result<void> Output::stop() noexcept {
  Impl& my = *impl_;
  auto closed = my.queue.close();
  my.started = false;
  if (my.waiting) ++my.dropped;
  my.waiting.release();
  for (Frame& frame : my.in_device) frame.release();
  my.state.restore(my.device);
  my.agreed.reset();
  return closed;
}

}  // namespace dmaflow::v4l2
