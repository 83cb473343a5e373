#include <dmaflow/copy_stage.hpp>

#include "buffer_maps.hpp"
#include "cancellable.hpp"
#include "log.hpp"
#include "sys/sys.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <poll.h>

namespace dmaflow {
namespace {

/// The delay before the next try if the kernel asks to try again and there is nothing to wait for.
constexpr auto try_again = std::chrono::milliseconds(1);

}  // namespace

CopyStage::~CopyStage() { stop(); }

Result<void> CopyStage::check_input(const StreamConfig& config) {
  const FormatInfo* info = format_info(config.layout.format);
  if (info == nullptr) {
    return std::unexpected(Error::os(EINVAL, "CopyStage::check_input", name())
                               .detail("format %s is not in the table", config.layout.format.code().c_str()));
  }
  if (!config.layout.modifier.is_linear() && !info->is_opaque) {
    return std::unexpected(
        Error::os(EINVAL, "CopyStage::check_input", name())
            .detail("modifier %s: only LINEAR can be copied row by row", config.layout.modifier.name().c_str()));
  }
  return {};
}

Result<void> CopyStage::set_input(const StreamConfig& config) {
  if (auto possible = check_input(config); !possible) return possible;
  input_ = config;
  return {};
}

// It reads every byte, which would take ten times as long from uncached memory.
Needs CopyStage::needs() const { return {.constraints = {.cached = true}, .usage = {.cpu = true}, .modifiers = {}}; }

Result<void> CopyStage::import(const Buffer& buffer) { return detail::try_map(buffer, Access::read); }

Result<void> CopyStage::add_buffer(const Buffer& buffer) {
  if (!pool_ || detail::map_of(input_maps_, buffer) != nullptr) return import(buffer);
  return detail::add_map(input_maps_, buffer, Access::read);
}

void CopyStage::remove_buffer(const Buffer& buffer) noexcept { detail::remove_map(input_maps_, buffer); }

Result<std::vector<StreamConfig>> CopyStage::offers(const StreamRequest&) {
  StreamConfig config = input_;
  config.constraints = {};
  for (PlaneLayout& plane : config.layout.planes) plane = {};  // the strides of the next device's memory apply
  return std::vector{config};
}

Result<void> CopyStage::set_output(const StreamConfig& config) {
  output_ = config;
  if (config.layout.planes[0].stride != 0 || config.layout.opaque_bytes != 0) return {};
  auto layout = Layout::linear(config.layout.format, config.layout.size);
  if (!layout) return std::unexpected(layout.error());
  output_.layout = *layout;
  return {};
}

Result<void> CopyStage::try_output(const Buffer& buffer) { return detail::try_map(buffer, Access::write); }

Result<void> CopyStage::start(std::span<const Buffer> inputs, std::vector<Buffer> outputs) {
  stop();
  bytes_copied_ = 0;
  auto input_maps = detail::map_all(inputs, Access::read);
  if (!input_maps) return std::unexpected(input_maps.error());
  auto output_maps = detail::map_all(outputs, Access::write);
  if (!output_maps) return std::unexpected(output_maps.error());
  auto pool = Pool::create(std::move(outputs));
  if (!pool) return std::unexpected(pool.error());
  input_maps_ = std::move(*input_maps);
  output_maps_ = std::move(*output_maps);
  pool_.emplace(std::move(*pool));
  return {};
}

Result<void> CopyStage::accept(Frame frame) {
  if (!ready()) return std::unexpected(Error::os(EAGAIN, "CopyStage::accept", name()));
  waiting_ = std::move(frame);
  fence_ended_ = waiting_.ready().is_null();
  return {};
}

Result<Frame> CopyStage::take() {
  if (auto advanced = advance(); !advanced) return std::unexpected(advanced.error());
  return std::move(finished_);
}

// Continues as far as possible without waiting; busy_ or waiting_fence() then tells what to wait for.
Result<void> CopyStage::advance() {
  if (!waiting_ || !pool_ || finished_) return {};
  busy_ = {};
  if (!fence_ended_) {
    const auto state = waiting_.ready().state();
    if (!state) return std::unexpected(state.error());
    if (*state == Fence::State::failed) {
      detail::log(LogLevel::warning, "copy: the fence of frame %llu failed: not copied",
                  static_cast<unsigned long long>(waiting_.info().sequence));
      ++dropped_;
      reset();
      return {};
    }
    if (*state == Fence::State::active) return {};
    fence_ended_ = true;
  }
  if (!target_) {
    auto target = pool_->acquire(waiting_.info());
    if (!target) return {};  // the next participant holds all of them: try later
    target_ = std::move(*target);
  }
  std::optional<CpuAccess> read;
  std::optional<CpuAccess> write;
  auto begun = begin(read, detail::map_of(input_maps_, waiting_.buffer()), CpuAccess::Mode::read);
  if (begun && *begun) begun = begin(write, detail::map_of(output_maps_, target_.buffer()), CpuAccess::Mode::write);
  if (!begun) {
    reset();
    return std::unexpected(begun.error());
  }
  if (!*begun) return {};
  move_pixels(*read, *write);
  auto ended = write->end();
  if (ended) ended = read->end();
  if (ended) finished_ = std::move(target_);
  reset();
  return ended;
}

/// False if devices still use the buffer.
Result<bool> CopyStage::begin(std::optional<CpuAccess>& access, const CpuMap* map, CpuAccess::Mode mode) {
  if (map == nullptr) {
    return std::unexpected(Error::os(EINVAL, "CopyStage::take", name()).detail("a buffer it was not started with"));
  }
  auto begun = CpuAccess::begin(*map, mode, Deadline::immediate());
  if (begun) {
    access.emplace(std::move(*begun));
    return true;
  }
  if (begun.error().code() != ETIMEDOUT) return std::unexpected(begun.error());
  const auto events = static_cast<short>(mode == CpuAccess::Mode::read ? POLLIN : POLLOUT);
  for (std::uint32_t i = 0; i < map->buffer().object_count(); ++i) {
    const int fd = map->buffer().fd(i);
    if (sys::wait(fd, events, Deadline::immediate()) != 0) continue;
    busy_ = {.fd = fd, .events = events};
    return false;
  }
  busy_ = {.look_again = Deadline::after(try_again)};
  return false;
}

void CopyStage::move_pixels(const CpuAccess& read, const CpuAccess& write) {
  const Layout& source = waiting_.buffer().layout();
  const Layout& target = target_.buffer().layout();
  for (std::uint32_t p = 0; p < source.plane_count; ++p) {
    const auto in = read.plane(p);
    const auto out = write.writable_plane(p);
    if (source.opaque_bytes != 0) {
      const std::size_t used = waiting_.info().bytes_used[p] != 0 ? waiting_.info().bytes_used[p] : in.size();
      const auto bytes = std::min({used, in.size(), out.size()});
      std::memcpy(out.data(), in.data(), bytes);
      bytes_copied_ += bytes;
      continue;
    }
    const std::size_t row = source.row_bytes(p);
    for (std::size_t y = 0; y < source.rows(p); ++y) {
      std::memcpy(&out[y * target.planes[p].stride], &in[y * source.planes[p].stride], row);
    }
    bytes_copied_ += row * source.rows(p);
  }
}

/// Releases the frame it was working on.
void CopyStage::reset() noexcept {
  waiting_.release();
  target_.release();
  fence_ended_ = true;
  busy_ = {};
}

int CopyStage::waiting_fence() const noexcept { return waiting_ && !fence_ended_ ? waiting_.ready().poll_fd() : -1; }

Result<void> CopyStage::dispatch(short) { return advance(); }

Result<void> CopyStage::drain(Deadline deadline, const Cancel* cancel) {
  while (true) {
    if (auto advanced = advance(); !advanced) return advanced;
    const bool waits_for_fence = waiting_fence() >= 0;
    if (!waits_for_fence && busy_.fd < 0 && !busy_.look_again) return {};
    const int fd = waits_for_fence ? waiting_fence() : busy_.fd;
    const short events = waits_for_fence ? short{POLLIN} : busy_.events;
    const auto until = busy_.look_again ? std::min(busy_.look_again->time(), deadline.time()) : deadline.time();
    const int ready = detail::wait(fd, events, Deadline::at(until), cancel);
    if (ready < 0) return std::unexpected(Error::os(-ready, "poll", name()));
    if (ready == 0 && deadline.remaining() == Deadline::Clock::duration::zero()) {
      return std::unexpected(Error::os(ETIMEDOUT, "CopyStage::drain", name())
                                 .detail("a device is still at work in a buffer to be copied"));
    }
  }
}

Result<void> CopyStage::stop() noexcept {
  reset();
  finished_.release();
  pool_.reset();
  input_maps_.clear();
  output_maps_.clear();
  return {};
}

}  // namespace dmaflow
