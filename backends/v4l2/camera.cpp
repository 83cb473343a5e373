// Camera: combines the device's parts into a Source. This file opens, negotiates, streams and queries, in that order.
#include "agreed.hpp"
#include "allocator.hpp"
#include "choose.hpp"
#include "controls.hpp"
#include "device.hpp"
#include "fences.hpp"
#include "formats.hpp"
#include "ports.hpp"
#include "queue.hpp"
#include "selection.hpp"
#include "sequence.hpp"
#include "signal.hpp"
#include "standards.hpp"
#include "stream_format.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include <poll.h>

namespace dmaflow::v4l2 {
namespace {

Field field_of(std::uint32_t field) noexcept {
  switch (field) {
    case V4L2_FIELD_ANY:
    case V4L2_FIELD_NONE:
      return Field::progressive;
    case V4L2_FIELD_TOP:
      return Field::top;
    case V4L2_FIELD_BOTTOM:
      return Field::bottom;
    case V4L2_FIELD_INTERLACED:
      return Field::interlaced;
    case V4L2_FIELD_INTERLACED_TB:
      return Field::top_first;
    case V4L2_FIELD_INTERLACED_BT:
      return Field::bottom_first;
    default:
      return Field::other;
  }
}

}  // namespace

struct Camera::Impl {
  explicit Impl(Device opened, bool fixed) : device(std::move(opened)), state(device), fixed_port(fixed) {}

  Device device;
  PortState state;  // as found
  bool fixed_port;  // the user chose it
  Queue queue{device};
  CameraAllocator allocator{device, queue};
  std::optional<Agreed> agreed;
  StreamConfig output;
  std::uint32_t least = 1;  // buffers the driver needs

  // while started
  std::shared_ptr<HoldSet> holds;
  std::weak_ptr<HoldSet> last_holds;  // of the run before: its frames may still be held
  std::array<std::uint32_t, max_slots> slot_of_hold{};
  std::array<std::uint32_t, max_slots> hold_of_slot{};
  /// Returned buffers that are not queued yet: their fences are pending, or the driver refused them just now.
  struct {
    std::array<HoldSet::Returned, max_slots> entries{};
    std::uint32_t count = 0;
  } waiting;
  std::optional<Error> refusal;  // used in give_back_all() only: making room for an error is expensive
  Sequence sequence;
  Rect visible;
  FrameInfo info;         // of the newest frame; what is the same for each is set once
  bool polled = false;    // dispatch() has received POLLIN
  bool readable = false;  // dispatch() has received POLLIN since the last frame
  bool ending = false;    // the end of the stream was announced
  bool ended = false;

  // always
  Signal signal;
  bool events = false;  // the device sends events

  static Result<std::unique_ptr<Camera>> make(Result<Device> device, const Options& options);
  void subscribe() noexcept;
  [[gnu::noinline]] void read_events() noexcept;
  [[gnu::noinline]] bool is_change(const Error& error) noexcept;
  Result<void> forget_format() noexcept;
  Result<Rect> set_rectangle(std::uint32_t target, const Rect& rect);
  void look_at_rectangles() noexcept;
  void look_at_visible() noexcept;
  Result<void> set_format(const StreamConfig& config);
  Result<void> find_least();
  Result<void> try_foreign(const Buffer& buffer);
  bool all_own(std::span<const Buffer> buffers) const noexcept;
  bool is_still_held(const Buffer& buffer) const noexcept;
  Result<void> check_start(std::span<const Buffer> buffers) const;
  Result<void> request_slots(bool own, std::uint32_t count);
  Result<void> fill_queue(std::span<const Buffer> buffers);
  void forget_stream() noexcept;
  Result<Frame> lend(const Dequeued& done);
  [[gnu::noinline]] Result<bool> give_back(const HoldSet::Returned& returned) noexcept;
  Result<bool> give_back_now(const HoldSet::Returned& returned) noexcept;
  Result<void> give_back_all() noexcept {
    if (waiting.count == 0 && !holds->has_returned()) return {};
    return give_back_returned();
  }
  Result<void> give_back_returned() noexcept;
};

// --- opening

Result<std::unique_ptr<Camera>> Camera::Impl::make(Result<Device> device, const Options& options) {
  if (!device) return std::unexpected(device.error());
  // From here on the camera's destructor restores what it found, also on errors.
  std::unique_ptr<Camera> camera(new Camera(std::make_unique<Impl>(std::move(*device), !options.input.empty())));
  if (!options.input.empty()) {
    if (auto port = go_to_port(camera->impl_->device, options.input); !port) return std::unexpected(port.error());
  }
  if (!options.standard.empty()) {
    if (auto set = camera->set_standard(options.standard); !set) return std::unexpected(set.error());
  }
  camera->impl_->subscribe();
  return camera;
}

Result<std::unique_ptr<Camera>> Camera::open(std::string_view path, const Options& options) {
  return Impl::make(Device::open(path, Direction::capture), options);
}
Result<std::unique_ptr<Camera>> Camera::open(std::string_view path) { return open(path, {}); }
Result<std::unique_ptr<Camera>> Camera::adopt(Fd fd, const Options& options) {
  return Impl::make(Device::adopt(std::move(fd), Direction::capture), options);
}
Result<std::unique_ptr<Camera>> Camera::adopt(Fd fd) { return adopt(std::move(fd), {}); }

Camera::Camera(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}

Camera::~Camera() {
  (void)stop();
  impl_->state.restore(impl_->device);
}

void Camera::Impl::subscribe() noexcept {
  v4l2_event_subscription end{};
  end.type = V4L2_EVENT_EOS;
  const bool tells_end = device.try_call(DMAFLOW_V4L2_OP(VIDIOC_SUBSCRIBE_EVENT), &end) == 0;
  const bool tells_changes = signal.follow(device);
  events = tells_end || tells_changes;
}

void Camera::Impl::read_events() noexcept {
  v4l2_event event{};
  do {
    if (device.try_call(DMAFLOW_V4L2_OP(VIDIOC_DQEVENT), &event) < 0) return;
    if (event.type == V4L2_EVENT_SOURCE_CHANGE) signal.note(event);
    if (event.type == V4L2_EVENT_EOS) ending = true;
  } while (event.pending > 0);
}

// --- negotiation

std::string_view Camera::name() const noexcept { return impl_->device.name(); }
bool Camera::take_changed() noexcept { return impl_->signal.take_changed(impl_->device); }
bool Camera::is_waiting() const noexcept { return impl_->signal.is_absent(); }
const StreamConfig& Camera::output() const noexcept { return impl_->output; }
std::uint32_t Camera::min_buffers() const noexcept { return impl_->least; }
Allocator* Camera::output_allocator() noexcept { return &impl_->allocator; }

Result<std::vector<StreamConfig>> Camera::offers(const StreamRequest& request) {
  Impl& my = *impl_;
  if (my.holds) {
    PortState unused(my.device);
    return choose(my.device, request, Search::as_is, unused);
  }
  if (auto closed = my.allocator.close(); !closed) return std::unexpected(closed.error());
  PortState before(my.device);
  auto found = choose(my.device, request, my.fixed_port ? Search::this_port : Search::all_ports, before);
  before.restore(my.device);
  if (!found && is_no_signal(found.error())) my.signal.miss();
  return found;
}

Result<void> Camera::set_output(const StreamConfig& config) {
  Impl& my = *impl_;
  if (my.holds)
    return std::unexpected(my.device.error(EBUSY, "set_output").detail("the camera is started: stop() it first"));
  if (auto closed = my.allocator.close(); !closed) return closed;
  my.agreed.reset();
  my.allocator.forget();
  StreamRequest request;
  request.size = config.layout.size;
  request.formats = {config.layout.format};
  if (config.interval != Interval{}) request.interval = config.interval;
  auto found = choose(my.device, request, my.fixed_port ? Search::this_port : Search::all_ports, my.state);
  if (!found) {
    if (is_no_signal(found.error())) my.signal.miss();
    return std::unexpected(found.error());
  }
  my.subscribe();  // source changes are per input
  if (auto set = my.set_format(config); !set) return set;
  my.output.interval = set_interval(my.device, config.interval);
  if (auto done = my.find_least(); !done) return done;
  my.read_events();
  my.signal.settle(my.device);  // events caused by setting the timings are not changes
  return my.allocator.configure(*my.agreed, my.output);
}

Result<void> Camera::Impl::set_format(const StreamConfig& config) {
  const Layout& wanted = config.layout;
  auto code = code_for(device, config);
  if (!code) return std::unexpected(code.error());
  if (auto set = StreamFormat::set(device, wanted, *code); !set) return std::unexpected(set.error());
  // Read back: some drivers' answers differ from what they set, and start() compares with what they set.
  auto now = Agreed::read(device);
  if (!now) return std::unexpected(now.error());
  const StreamFormat& set = now->format;
  const V4l2Meaning got = from_v4l2(set.code);
  if (set.size != wanted.size || got.format != wanted.format || got.modifier != wanted.modifier) {
    return std::unexpected(device.error(EINVAL, "VIDIOC_S_FMT")
                               .detail("asked for %ux%u %s %s, the device insists on %ux%u %s %s", wanted.size.width,
                                       wanted.size.height, wanted.format.code().c_str(), wanted.modifier.name().c_str(),
                                       set.size.width, set.size.height, got.format.code().c_str(),
                                       got.modifier.name().c_str()));
  }
  if (!set.has_full_frames()) {
    return std::unexpected(
        device.error(ENOTSUP, "VIDIOC_S_FMT")
            .detail("it gives single fields of an interlaced picture (V4L2_FIELD %u), not whole frames", set.field));
  }
  auto made = set.config(device);
  if (!made) return std::unexpected(made.error());
  agreed = *now;
  output = *made;
  look_at_rectangles();
  return {};
}

/// Reads what is captured, and where in the buffer it goes.
void Camera::Impl::look_at_rectangles() noexcept {
  agreed->read_rectangles(device);
  const Size size = agreed->format.size;
  visible = agreed->compose.value_or(Rect{.x = 0, .y = 0, .width = size.width, .height = size.height});
}

/// Other programs may set the rectangles while streaming, and no event reports that. So a device that can compose is
/// asked once per frame. If it does not answer, the frame fails elsewhere or keeps the rectangle of the one before.
void Camera::Impl::look_at_visible() noexcept {
  if (!agreed->compose) [[likely]]
    return;
  if (const auto now = selection(device, V4L2_SEL_TGT_COMPOSE)) visible = *now;
}

/// The fewest slots that REQBUFS makes. The call also shows whether another program owns the queue. DMABUF slots cost
/// no memory.
Result<void> Camera::Impl::find_least() {
  auto slots = queue.request(V4L2_MEMORY_DMABUF, 1);
  if (!slots && slots.error().code() == EINVAL) slots = queue.request(V4L2_MEMORY_MMAP, 1);
  if (!slots) return std::unexpected(slots.error());
  const std::int64_t asked = control_or(device, V4L2_CID_MIN_BUFFERS_FOR_CAPTURE, 1);
  least = std::max(*slots, static_cast<std::uint32_t>(std::clamp<std::int64_t>(asked, 1, max_slots)));
  return queue.close();
}

Result<void> Camera::try_output(const Buffer& buffer) {
  Impl& my = *impl_;
  if (my.holds) return std::unexpected(my.device.error(EBUSY, "try_output").detail("the camera is started"));
  if (!my.agreed) return std::unexpected(my.device.error(EINVAL, "try_output").detail("set_output() comes first"));
  if (auto fits = my.agreed->format.check(buffer, my.output, my.device); !fits) return fits;
  if (my.allocator.slot_of(buffer)) return {};
  return my.try_foreign(buffer);
}

/// QBUF attaches and maps even while the stream is off, and REQBUFS 0 undoes it.
Result<void> Camera::Impl::try_foreign(const Buffer& buffer) {
  if (auto closed = allocator.close(); !closed) return closed;
  auto slots = request_as_agreed(device, queue, *agreed, V4L2_MEMORY_DMABUF, 1);
  if (!slots) return std::unexpected(slots.error());
  queue.pair(0, buffer, agreed->format);
  auto queued = queue.queue(0);
  auto closed = queue.close();
  if (!queued) return std::unexpected(explain_import(queued.error(), buffer));
  return closed;
}

// --- streaming

bool Camera::Impl::all_own(std::span<const Buffer> buffers) const noexcept {
  return std::all_of(buffers.begin(), buffers.end(), [&](const Buffer& b) { return allocator.slot_of(b).has_value(); });
}

Result<void> Camera::Impl::check_start(std::span<const Buffer> buffers) const {
  const auto refuse = [&](int code) { return device.error(code, "start"); };
  if (holds) return std::unexpected(refuse(EBUSY).detail("the camera is started already"));
  if (!agreed) return std::unexpected(refuse(EINVAL).detail("set_output() comes first"));
  if (buffers.size() < least || buffers.size() > max_slots) {
    return std::unexpected(refuse(EINVAL).detail("%zu buffers given; the camera needs %u at least, and %u is the most",
                                                 buffers.size(), least, max_slots));
  }
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (auto fits = agreed->format.check(buffers[i], output, device); !fits) return fits;
    if (std::find(buffers.begin(), buffers.begin() + static_cast<std::ptrdiff_t>(i), buffers[i]) !=
        buffers.begin() + static_cast<std::ptrdiff_t>(i)) {
      return std::unexpected(refuse(EINVAL).detail("buffer %zu was given twice", i));
    }
    if (is_still_held(buffers[i])) {
      return std::unexpected(refuse(EBUSY).detail("frames of the last run are still held, in buffers given again"));
    }
  }
  return {};
}

bool Camera::Impl::is_still_held(const Buffer& buffer) const noexcept {
  const auto last = last_holds.lock();
  if (!last || last->lent() == 0) return false;
  return std::find(last->buffers().begin(), last->buffers().end(), buffer) != last->buffers().end();
}

/// Requests slots, with the device set as agreed. The camera's own buffers already have slots, and the format cannot
/// change while they exist.
Result<void> Camera::Impl::request_slots(bool own, std::uint32_t count) {
  if (own) return agreed->check(device);
  if (auto closed = allocator.close(); !closed) return closed;
  auto slots = request_as_agreed(device, queue, *agreed, V4L2_MEMORY_DMABUF, count);
  if (!slots) return std::unexpected(slots.error());
  if (*slots < count) {
    return std::unexpected(device.error(EINVAL, "VIDIOC_REQBUFS")
                               .detail("%u buffers given, but the driver takes %u at most", count, *slots));
  }
  return {};
}

/// Assigns each buffer a slot for the whole run, and queues all of them.
Result<void> Camera::Impl::fill_queue(std::span<const Buffer> buffers) {
  const bool own = all_own(buffers);
  const auto count = static_cast<std::uint32_t>(buffers.size());
  if (auto requested = request_slots(own, count); !requested) return requested;
  if (auto restored = agreed->restore_rectangles(device); !restored) return restored;
  look_at_visible();
  output.interval = restore_interval(device, output.interval);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t slot = own ? *allocator.slot_of(buffers[i]) : i;
    slot_of_hold[i] = slot;
    hold_of_slot[slot] = i;
    queue.pair(slot, buffers[i], agreed->format);
    if (auto queued = queue.queue(slot); !queued) {
      return own ? queued : std::unexpected(explain_import(queued.error(), buffers[i]));
    }
  }
  return {};
}

Result<void> Camera::start(std::span<const Buffer> buffers) {
  Impl& my = *impl_;
  if (auto checked = my.check_start(buffers); !checked) return checked;
  auto holds = HoldSet::create({buffers.begin(), buffers.end()});
  if (!holds) return std::unexpected(holds.error());
  my.forget_stream();
  my.info = {.color = my.output.color};
  auto running = my.fill_queue(buffers);
  if (running) running = my.queue.stream_on();
  if (!running) {
    (void)my.allocator.close();
    if (is_no_signal(running.error())) my.signal.miss();
    return running;
  }
  my.holds = std::move(*holds);
  return {};
}

void Camera::Impl::forget_stream() noexcept {
  waiting.count = 0;
  sequence.reset();
  polled = readable = ending = ended = false;
}

Result<void> Camera::stop() noexcept {
  Impl& my = *impl_;
  my.forget_stream();
  auto closed = my.allocator.close();
  if (my.holds) my.last_holds = my.holds;
  my.holds.reset();
  return closed;
}

HoldSet* Camera::holds() noexcept { return impl_->holds.get(); }
int Camera::poll_fd() const noexcept { return impl_->device.fd(); }

short Camera::poll_events() const noexcept {
  const Impl& my = *impl_;
  if (my.ended || (!my.holds && !my.signal.is_absent())) return 0;
  const bool frames = my.holds && !my.signal.is_absent() && my.queue.queued() > 0;
  return static_cast<short>((frames ? POLLIN : 0) | (my.events ? POLLPRI : 0));
}

bool Camera::may_have_frame() const noexcept {
  const Impl& my = *impl_;
  return my.ended || !my.polled || my.readable;
}

[[gnu::flatten]] Result<Frame> Camera::take() {
  Impl& my = *impl_;
  if (!my.holds) return Frame{};
  if (my.ended) return std::unexpected(my.device.error(EPIPE, "VIDIOC_DQBUF").detail("the stream has ended"));
  if (my.signal.is_absent() || my.queue.queued() == 0 || !may_have_frame()) return Frame{};
  my.readable = my.ending;
  Dequeued done;
  const auto is_done = my.queue.dequeue(done);
  if (!is_done) [[unlikely]] {
    if (my.is_change(is_done.error())) return Frame{};
    my.ended = is_done.error().code() == EPIPE;
    return std::unexpected(is_done.error());
  }
  if (*is_done) return my.lend(done);
  if (!my.ending) return Frame{};
  my.ended = true;
  return std::unexpected(my.device.error(EPIPE, "VIDIOC_DQBUF").detail("the stream has ended"));
}

Result<Frame> Camera::Impl::lend(const Dequeued& done) {
  const std::uint32_t index = hold_of_slot[done.slot];
  const bool monotonic = (done.flags & V4L2_BUF_FLAG_TIMESTAMP_MASK) == V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
  info.sequence = sequence.extend(done.sequence);
  info.clock = monotonic ? FrameInfo::Clock::monotonic : FrameInfo::Clock::unknown;
  // A driver's timestamp may lie in the future (vivid's planned end of exposure): no image is newer than now.
  info.timestamp = monotonic ? std::min(done.timestamp, Deadline::Clock::now().time_since_epoch()) : done.timestamp;
  look_at_visible();
  info.visible = visible;
  info.is_erroneous = (done.flags & V4L2_BUF_FLAG_ERROR) != 0;
  info.is_last = (done.flags & V4L2_BUF_FLAG_LAST) != 0;
  info.field = field_of(done.field == V4L2_FIELD_ANY ? agreed->format.field : done.field);
  ended = info.is_last;
  if (output.layout.plane_count == agreed->format.planes)
    info.bytes_used = done.bytes_used;  // else one count covers several planes
  if (info.is_last && done.bytes_used[0] == 0) {
    return std::unexpected(device.error(EPIPE, "VIDIOC_DQBUF").detail("the stream has ended"));
  }
  for (std::uint32_t i = 0; i < agreed->format.planes; ++i) {
    if (done.data_offset[i] == 0) [[likely]]
      continue;
    waiting.entries[waiting.count++] = {.index = index, .fences = {}};
    return std::unexpected(
        device.error(ENOTSUP, "VIDIOC_DQBUF")
            .detail("the driver puts %u bytes before the pixels of plane %u, which no layout can say",
                    done.data_offset[i], i));
  }
  return holds->lend(index, info);
}

[[gnu::flatten]] Result<void> Camera::dispatch(short revents) {
  Impl& my = *impl_;
  if (my.events && (revents & (POLLPRI | POLLERR)) != 0) my.read_events();
  if (!my.holds) return {};
  if ((revents & (POLLIN | POLLERR | POLLHUP)) != 0) my.polled = my.readable = true;
  if (my.ending) my.readable = true;  // take() returns the remaining frames first
  return my.give_back_all();
}

/// True if the signal has changed: drivers then put the queue into the error state, and the stream is stopped anyway.
bool Camera::Impl::is_change(const Error& error) noexcept {
  if (error.code() != EIO) return false;
  if (events) read_events();
  return !signal.is_steady();
}

/// False if a fence is still pending. The fences of several holders are waited for one after the other.
Result<bool> Camera::Impl::give_back(const HoldSet::Returned& returned) noexcept {
  for (Fence& fence : returned.fences) {
    if (fence.is_null()) continue;
    const auto status = ended_as(fence, device, "a release fence");
    if (!status) return std::unexpected(status.error());
    if (*status == Fence::State::active) return false;
    fence = {};  // if it failed, the reader is gone: the buffer may be written anyway
  }
  return give_back_now(returned);
}

Result<bool> Camera::Impl::give_back_now(const HoldSet::Returned& returned) noexcept {
  if (auto queued = queue.queue(slot_of_hold[returned.index]); !queued) return std::unexpected(queued.error());
  return true;
}

Result<void> Camera::Impl::give_back_returned() noexcept {
  // Each is tried once: one that fails, or whose fences are pending, stays here.
  const auto is_given_back = [this](const HoldSet::Returned& returned) {
    const auto queued = returned.fences.empty() ? give_back_now(returned) : give_back(returned);
    if (queued) [[likely]]
      return *queued;
    if (!refusal) refusal = queued.error();
    return false;
  };
  std::uint32_t kept = 0;
  for (std::uint32_t i = 0; i < waiting.count; ++i) {
    if (!is_given_back(waiting.entries[i])) waiting.entries[kept++] = waiting.entries[i];
  }
  waiting.count = kept;
  while (waiting.count < max_slots && holds->has_returned()) {
    const auto returned = holds->take_returned();
    if (returned && !is_given_back(*returned)) waiting.entries[waiting.count++] = *returned;
  }
  if (!refusal) [[likely]]
    return {};
  const Error first = *refusal;
  refusal.reset();
  return is_change(first) ? Result<void>() : std::unexpected(first);
}

/// The fence of the buffer that came back first: each buffer waits for its own, and a later one may be queued before
/// it.
int Camera::waiting_fence() const noexcept {
  const Impl& my = *impl_;
  for (std::uint32_t i = 0; my.holds && i < my.waiting.count; ++i) {
    for (const Fence& fence : my.waiting.entries[i].fences) {
      if (!fence.is_null()) return fence.poll_fd();
    }
  }
  return -1;
}

// --- queries and settings

const DeviceInfo& Camera::info() const noexcept { return impl_->device.info(); }
Result<std::vector<Format>> Camera::formats() const { return list_formats(impl_->device); }
Result<std::vector<SizeRange>> Camera::sizes(const Format& format) const {
  return list_sizes(impl_->device, format.code);
}
Result<std::vector<IntervalRange>> Camera::intervals(const Format& format, Size size) const {
  return list_intervals(impl_->device, format.code, size);
}
Result<std::vector<Port>> Camera::inputs() const { return ports(impl_->device); }

/// For calls with which the driver may change its format; it refuses them while the camera is started.
Result<void> Camera::Impl::forget_format() noexcept {
  if (holds) return {};
  agreed.reset();
  allocator.forget();
  return allocator.close();
}

Result<void> Camera::select_input(std::string_view name) {
  Impl& my = *impl_;
  auto port = find_port(my.device, name);
  if (!port) return std::unexpected(port.error());
  if (auto forgotten = my.forget_format(); !forgotten) return forgotten;
  if (auto set = set_port(my.device, port->index); !set) return set;
  my.subscribe();
  my.fixed_port = true;
  return {};
}

Result<Timings> Camera::detected_timings() const {
  auto timings = detect_timings(impl_->device);
  if (!timings) return std::unexpected(timings.error());
  return describe(timings->bt);
}

Result<std::vector<Timings>> Camera::known_timings() const {
  std::vector<Timings> result;
  for (const v4l2_dv_timings& timings : list_timings(impl_->device)) result.push_back(describe(timings.bt));
  return result;
}

Result<void> Camera::set_timings(const Timings& timings) {
  Impl& my = *impl_;
  std::optional<Interval> wanted;
  if (timings.interval != Interval{}) wanted = timings.interval;
  const auto chosen = choose_timings(list_timings(my.device), timings.size, wanted);
  if (!chosen) {
    return std::unexpected(
        my.device.error(EINVAL, "VIDIOC_S_DV_TIMINGS")
            .detail("no progressive timings of %ux%u at that rate", timings.size.width, timings.size.height));
  }
  if (auto forgotten = my.forget_format(); !forgotten) return forgotten;
  my.state.remember(my.device);
  return v4l2::set_timings(my.device, *chosen);
}

Result<std::vector<Standard>> Camera::standards() const { return list_standards(impl_->device); }
Result<Standard> Camera::standard() const { return current_standard(impl_->device); }
Result<Standard> Camera::detected_standard() const { return detect_standard(impl_->device); }

Result<void> Camera::set_standard(std::string_view name) {
  Impl& my = *impl_;
  auto standard = find_standard(my.device, name);
  if (!standard) return std::unexpected(standard.error());
  if (auto forgotten = my.forget_format(); !forgotten) return forgotten;
  my.state.remember(my.device);
  return v4l2::set_standard(my.device, standard->id);
}

Result<Rect> Camera::crop() const { return selection(impl_->device, V4L2_SEL_TGT_CROP); }
Result<Rect> Camera::compose() const { return selection(impl_->device, V4L2_SEL_TGT_COMPOSE); }
Result<Rect> Camera::set_crop(const Rect& rect) { return impl_->set_rectangle(V4L2_SEL_TGT_CROP, rect); }
Result<Rect> Camera::set_compose(const Rect& rect) { return impl_->set_rectangle(V4L2_SEL_TGT_COMPOSE, rect); }

/// Drivers adapt either rectangle to the other; some also adapt the format, if nothing is allocated.
Result<Rect> Camera::Impl::set_rectangle(std::uint32_t target, const Rect& rect) {
  auto set = set_selection(device, target, rect);
  if (!set || !agreed) return set;
  if (!holds && !agreed->check(device)) {
    if (auto forgotten = forget_format(); !forgotten) return std::unexpected(forgotten.error());
    return set;
  }
  look_at_rectangles();
  return set;
}

std::vector<Control> Camera::controls() const { return list_controls(impl_->device); }
Result<std::int64_t> Camera::control(std::string_view name) const { return get_control(impl_->device, name); }
Result<void> Camera::set_control(std::string_view name, std::int64_t value) {
  return v4l2::set_control(impl_->device, name, value);
}
Result<void> Camera::set_control(std::string_view name, std::string_view value) {
  return v4l2::set_control(impl_->device, name, value);
}

}  // namespace dmaflow::v4l2
