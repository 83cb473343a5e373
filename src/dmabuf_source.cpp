#include <dmaflow/dmabuf_source.hpp>

#include "app_frame.hpp"
#include "event.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <optional>
#include <utility>

#include <poll.h>

namespace dmaflow {
namespace {

bool is_like(const Layout& a, const Layout& b) noexcept {
  return a.size == b.size && a.format == b.format && a.modifier == b.modifier;
}

/// Returns the sample buffers, so that negotiation can try them.
class Samples final : public Allocator {
 public:
  Samples(std::string name, std::vector<Buffer> buffers) : name_(std::move(name)), buffers_(std::move(buffers)) {}

  [[nodiscard]] std::string_view name() const noexcept override { return name_; }
  [[nodiscard]] MemoryTraits traits() const noexcept override { return {}; }  // unknown
  [[nodiscard]] Result<std::vector<Buffer>> allocate(const Request& request) override {
    const Layout& layout = buffers_.front().layout();
    for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
      const auto alignment = std::max(request.constraints.stride_alignment, 1U);
      if (layout.planes[i].stride % alignment == 0) continue;
      return std::unexpected(
          Error::os(EINVAL, "allocate", name_)
              .detail("the program's buffers have stride %u, no multiple of %u", layout.planes[i].stride, alignment));
    }
    const auto count = std::min<std::size_t>(request.count, buffers_.size());
    return std::vector<Buffer>(buffers_.begin(), buffers_.begin() + static_cast<std::ptrdiff_t>(count));
  }
  [[nodiscard]] bool has(const Buffer& buffer) const noexcept {
    return std::ranges::find(buffers_, buffer) != buffers_.end();
  }

 private:
  std::string name_;
  std::vector<Buffer> buffers_;
};

}  // namespace

struct DmaBufSource::Impl {
  Impl(StreamConfig stream, std::vector<Buffer> given, DmaBufSourceOptions wanted, detail::Event made)
      : config(stream),
        options(std::move(wanted)),
        samples("memory of " + options.name, given),
        event(std::move(made)),
        output(stream) {
    for (Buffer& buffer : given) known.push_back({.buffer = std::move(buffer)});
  }

  const StreamConfig config;
  DmaBufSourceOptions options;
  Samples samples;
  const detail::Event event;  // readable after push(), forget() and end()

  // Shared by the program's threads and the loop's.
  struct Known {
    Buffer buffer;
    std::uint64_t used = 0;  // when it was pushed last
  };
  struct Pushed {
    Buffer buffer;
    FrameInfo info;
    Fence ready;
  };
  std::mutex mutex;
  std::vector<Known> known;  // the buffers that buffer() finds again
  std::uint64_t known_uses = 0;
  std::vector<Buffer> forgotten;
  std::array<Pushed, HoldSet::max_buffers> pushed;
  std::size_t first = 0;
  std::size_t count = 0;
  std::uint64_t sequence = 0;
  bool ended = false;

  // Used by the loop's thread only.
  struct Slot {
    FrameInfo info;
    std::uint64_t used = 0;
    bool is_free = true;
  };
  StreamConfig output;
  std::shared_ptr<HoldSet> holds;          // null while stopped
  std::shared_ptr<HoldSet> stopped_holds;  // while frames of the last run are still held
  std::array<Slot, HoldSet::max_buffers> slots;
  std::uint64_t uses = 0;
  bool is_starved = false;  // a frame waits because every slot is held

  [[nodiscard]] Error error(int code, const char* operation) const { return Error::os(code, operation, options.name); }
  void note_known(const Buffer& buffer);
  [[nodiscard]] std::optional<std::uint32_t> slot_for(const Buffer& buffer);
  void retire_forgotten();
  void release(const Buffer& buffer, const FrameInfo& info, std::span<const Fence> fences) {
    if (options.released) options.released(buffer, info, fences);
  }
  void take_back(HoldSet& set);
  Pushed pop() noexcept {
    Pushed next = std::move(pushed[first]);
    pushed[first] = {};
    first = (first + 1) % pushed.size();
    --count;
    return next;
  }
};

DmaBufSource::DmaBufSource(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
DmaBufSource::~DmaBufSource() { stop(); }

Result<std::unique_ptr<DmaBufSource>> DmaBufSource::create(StreamConfig config, std::vector<Buffer> samples,
                                                           DmaBufSourceOptions options) {
  const auto invalid = [&](const char* why) {
    return std::unexpected(Error::os(EINVAL, "DmaBufSource::create", options.name).detail("%s", why));
  };
  if (samples.empty()) return invalid("negotiation needs at least one buffer to try");
  if (std::ranges::any_of(samples, [&](const Buffer& one) { return !is_like(one.layout(), config.layout); }))
    return invalid("a sample has another size, format or modifier than the stream");
  if (options.max_buffers < 1 || options.max_buffers > HoldSet::max_buffers)
    return invalid("max_buffers must be 1 to 64");
  config.layout = samples.front().layout();
  auto event = detail::Event::create(options.name);
  if (!event) return std::unexpected(event.error());
  return std::unique_ptr<DmaBufSource>(
      new DmaBufSource(std::make_unique<Impl>(config, std::move(samples), std::move(options), std::move(*event))));
}

// --- For the program ---

Result<Buffer> DmaBufSource::buffer(const Layout& layout, std::span<const int> descriptors) {
  std::vector<Fd> copies;
  for (const int descriptor : descriptors) {
    auto copy = Fd::dup_of(descriptor);
    if (!copy) return std::unexpected(copy.error());
    copies.push_back(std::move(*copy));
  }
  auto made = Buffer::create(layout, copies, {.origin = "the program"});
  if (!made) return made;
  const auto is_same = [&](const Impl::Known& one) {
    if (one.buffer.layout() != made->layout() || one.buffer.object_count() != made->object_count()) return false;
    for (std::uint32_t i = 0; i < made->object_count(); ++i) {
      if (one.buffer.id(i) != made->id(i)) return false;
    }
    return true;
  };
  const std::lock_guard lock(impl_->mutex);
  const auto found = std::ranges::find_if(impl_->known, is_same);
  if (found != impl_->known.end()) return found->buffer;
  impl_->note_known(*made);
  return made;
}

/// Keeps the buffer, so that buffer() finds it again, in place of the least recently used one.
void DmaBufSource::Impl::note_known(const Buffer& buffer) {
  const auto used = ++known_uses;
  const auto found = std::ranges::find(known, buffer, &Known::buffer);
  if (found != known.end()) {
    found->used = used;
    return;
  }
  if (known.size() >= options.max_buffers) known.erase(std::ranges::min_element(known, {}, &Known::used));
  known.push_back({.buffer = buffer, .used = used});
}

Result<void> DmaBufSource::push(const Buffer& buffer, FrameInfo info, Fence ready) {
  Impl& my = *impl_;
  if (!is_like(buffer.layout(), my.config.layout)) {
    return std::unexpected(my.error(EINVAL, "DmaBufSource::push")
                               .detail(buffer ? "the buffer has another size, format or modifier than the stream"
                                              : "the buffer is empty"));
  }
  const std::lock_guard lock(my.mutex);
  if (my.ended) return std::unexpected(my.error(EPIPE, "DmaBufSource::push").detail("end() was called"));
  if (my.count == my.pushed.size()) {
    return std::unexpected(my.error(EAGAIN, "DmaBufSource::push").detail("%zu images wait already", my.count));
  }
  detail::complete(info, buffer, my.sequence++);
  my.note_known(buffer);
  my.pushed[(my.first + my.count) % my.pushed.size()] = {.buffer = buffer, .info = info, .ready = std::move(ready)};
  ++my.count;
  my.event.signal();
  return {};
}

void DmaBufSource::forget(const Buffer& buffer) {
  const std::lock_guard lock(impl_->mutex);
  std::erase_if(impl_->known, [&](const Impl::Known& one) { return one.buffer == buffer; });
  impl_->forgotten.push_back(buffer);
  impl_->event.signal();
}

void DmaBufSource::end() noexcept {
  const std::lock_guard lock(impl_->mutex);
  impl_->ended = true;
  impl_->event.signal();
}

// --- For the pipeline ---

std::string_view DmaBufSource::name() const noexcept { return impl_->options.name; }
const StreamConfig& DmaBufSource::output() const noexcept { return impl_->output; }
Allocator* DmaBufSource::output_allocator() noexcept { return &impl_->samples; }
int DmaBufSource::poll_fd() const noexcept { return impl_->event.fd(); }
short DmaBufSource::poll_events() const noexcept { return POLLIN; }
HoldSet* DmaBufSource::holds() noexcept { return impl_->holds.get(); }

Result<std::vector<StreamConfig>> DmaBufSource::offers(const StreamRequest& request) {
  const StreamConfig& config = impl_->config;
  const auto& formats = request.formats;
  const bool fits = (!request.size || *request.size == config.layout.size) &&
                    (formats.empty() || std::ranges::find(formats, config.layout.format) != formats.end());
  if (fits) return std::vector{config};
  return std::unexpected(
      impl_->error(EINVAL, "DmaBufSource::offers").detail("it has %s only", config.describe().c_str()));
}

Result<void> DmaBufSource::set_output(const StreamConfig& config) {
  if (impl_->holds) return std::unexpected(impl_->error(EBUSY, "DmaBufSource::set_output").detail("it is started"));
  if (!is_like(config.layout, impl_->config.layout))
    return std::unexpected(impl_->error(EINVAL, "DmaBufSource::set_output").detail("%s", config.describe().c_str()));
  impl_->output = config;
  impl_->output.layout = impl_->config.layout;
  return {};
}

Result<void> DmaBufSource::try_output(const Buffer& buffer) {
  if (impl_->samples.has(buffer)) return {};
  return std::unexpected(
      impl_->error(EINVAL, "DmaBufSource::try_output").detail("its frames come in the program's memory"));
}

Result<void> DmaBufSource::start(std::span<const Buffer> buffers) {
  Impl& my = *impl_;
  if (my.holds) return std::unexpected(my.error(EBUSY, "DmaBufSource::start").detail("it is started already"));
  auto holds = HoldSet::create({buffers.begin(), buffers.end()}, my.options.max_buffers);
  if (!holds) return std::unexpected(holds.error());
  my.stopped_holds.reset();
  my.slots = {};
  my.holds = std::move(*holds);
  return {};
}

Result<void> DmaBufSource::stop() noexcept {
  Impl& my = *impl_;
  if (!my.holds) return {};
  my.take_back(*my.holds);
  while (true) {
    std::unique_lock lock(my.mutex);
    if (my.count == 0) break;
    const Impl::Pushed unused = my.pop();
    lock.unlock();
    my.release(unused.buffer, unused.info, {});
  }
  my.stopped_holds = std::move(my.holds);  // the sinks are stopped next and release theirs
  return {};
}

/// Informs the program about the frames that were returned.
void DmaBufSource::Impl::take_back(HoldSet& set) {
  while (const auto back = set.take_returned()) {
    slots[back->index].is_free = true;
    if (std::exchange(is_starved, false)) event.signal();  // take() has a frame again
    release(set.buffers()[back->index], slots[back->index].info, back->fences);
  }
}

void DmaBufSource::Impl::retire_forgotten() {
  const std::lock_guard lock(mutex);
  std::erase_if(forgotten, [&](const Buffer& buffer) {
    bool is_held = false;
    for (std::uint32_t i = 0; i < holds->buffers().size(); ++i) {
      if (holds->buffers()[i] != buffer) continue;
      if (slots[i].is_free) {
        static_cast<void>(holds->retire(i));
      } else {
        is_held = true;
      }
    }
    return !is_held;
  });
}

Result<void> DmaBufSource::dispatch(short revents) {
  Impl& my = *impl_;
  if ((revents & POLLIN) != 0) my.event.clear();
  if (my.stopped_holds) {
    my.take_back(*my.stopped_holds);
    if (my.stopped_holds->lent() == 0 && !my.stopped_holds->has_returned()) my.stopped_holds.reset();
  }
  if (!my.holds) return {};
  my.take_back(*my.holds);
  my.retire_forgotten();
  return {};
}

/// A free slot of this buffer, else a new slot, else the slot of the least recently used buffer.
std::optional<std::uint32_t> DmaBufSource::Impl::slot_for(const Buffer& buffer) {
  const auto there = holds->buffers();
  std::optional<std::uint32_t> oldest;
  for (std::uint32_t i = 0; i < there.size(); ++i) {
    if (!slots[i].is_free || !there[i]) continue;
    if (there[i] == buffer) return i;
    if (!oldest || slots[i].used < slots[*oldest].used) oldest = i;
  }
  auto added = holds->add(buffer);
  if (!added && oldest && holds->retire(*oldest)) added = holds->add(buffer);
  return added ? std::optional(*added) : std::nullopt;
}

Result<Frame> DmaBufSource::take() {
  Impl& my = *impl_;
  if (!my.holds) return Frame();
  std::unique_lock lock(my.mutex);
  if (my.count == 0) {
    if (my.ended) return std::unexpected(my.error(EPIPE, "DmaBufSource::take").detail("the stream has ended"));
    return Frame();
  }
  const auto index = my.slot_for(my.pushed[my.first].buffer);
  my.is_starved = !index;
  if (!index) return Frame();
  Impl::Pushed next = my.pop();
  lock.unlock();
  my.slots[*index] = {.info = next.info, .used = ++my.uses, .is_free = false};
  return my.holds->lend(*index, next.info, std::move(next.ready));
}

}  // namespace dmaflow
