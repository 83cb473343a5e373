#include <dmaflow/copy_stage.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <poll.h>

namespace dmaflow {
namespace {

constexpr auto access_timeout = std::chrono::seconds(1);

const CpuMap* map_of(const std::vector<CpuMap>& maps, const Buffer& buffer) noexcept {
  const auto found = std::ranges::find(maps, buffer, &CpuMap::buffer);
  return found == maps.end() ? nullptr : &*found;
}

Result<std::vector<CpuMap>> map_all(std::span<const Buffer> buffers, Access access) {
  std::vector<CpuMap> maps;
  maps.reserve(buffers.size());
  for (const Buffer& buffer : buffers) {
    auto map = CpuMap::create(buffer, access);
    if (!map) return std::unexpected(map.error());
    maps.push_back(std::move(*map));
  }
  return maps;
}

}  // namespace

CopyStage::~CopyStage() { stop(); }

Result<void> CopyStage::check(const StreamConfig& config) {
  const FormatInfo* info = format_info(config.layout.format);
  if (info == nullptr) {
    return std::unexpected(Error::os(EINVAL, "CopyStage::check", name())
                               .detail("format %s is not in the table", config.layout.format.code().c_str()));
  }
  if (!config.layout.modifier.is_linear() && !info->is_opaque) {
    return std::unexpected(
        Error::os(EINVAL, "CopyStage::check", name())
            .detail("modifier %s: only LINEAR can be copied row by row", config.layout.modifier.name().c_str()));
  }
  return {};
}

Result<void> CopyStage::configure(const StreamConfig& config) {
  if (auto possible = check(config); !possible) return possible;
  input_ = config;
  return {};
}

Result<void> CopyStage::import(const Buffer& buffer) {
  auto map = CpuMap::create(buffer, Access::read);
  if (!map) return std::unexpected(map.error());
  return {};
}

Result<std::vector<StreamConfig>> CopyStage::offers(const StreamRequest&) {
  StreamConfig config = input_;
  config.constraints = {};
  for (Plane& plane : config.layout.planes) plane = {};  // whatever the follower's memory has
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

Result<void> CopyStage::try_output(const Buffer& buffer) {
  auto map = CpuMap::create(buffer, Access::write);
  if (!map) return std::unexpected(map.error());
  return {};
}

Result<void> CopyStage::start(std::span<const Buffer> inputs, std::vector<Buffer> outputs) {
  stop();
  bytes_copied_ = 0;
  auto input_maps = map_all(inputs, Access::read);
  if (!input_maps) return std::unexpected(input_maps.error());
  auto output_maps = map_all(outputs, Access::write);
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
  return {};
}

Result<Frame> CopyStage::take() {
  if (waiting_ && pool_) {
    const auto over = waiting_.ready().has_ended();
    if (!over) return std::unexpected(over.error());
    if (!*over) return Frame();  // poll_fd() says when
    auto target = pool_->acquire(waiting_.info());
    if (!target) return Frame();  // its follower holds them all: later
    const Frame from = std::move(waiting_);
    if (auto copied = copy(from, *target); !copied) return std::unexpected(copied.error());
    finished_ = std::move(*target);
  }
  return std::move(finished_);
}

Result<void> CopyStage::copy(const Frame& from, const Frame& to) {
  const CpuMap* input = map_of(input_maps_, from.buffer());
  const CpuMap* output = map_of(output_maps_, to.buffer());
  if (input == nullptr || output == nullptr) {
    return std::unexpected(Error::os(EINVAL, "CopyStage::take", name()).detail("a buffer it was not started with"));
  }
  const auto deadline = Deadline::after(access_timeout);
  if (auto ready = from.ready().wait(deadline); !ready) return ready;  // signalled by now, perhaps with an error
  auto read = CpuAccess::begin(*input, CpuAccess::Mode::read, deadline);
  if (!read) return std::unexpected(read.error());
  auto write = CpuAccess::begin(*output, CpuAccess::Mode::write, deadline);
  if (!write) return std::unexpected(write.error());

  const Layout& source = from.buffer().layout();
  const Layout& target = to.buffer().layout();
  for (std::uint32_t p = 0; p < source.plane_count; ++p) {
    const auto in = read->plane(p);
    const auto out = write->writable_plane(p);
    if (source.opaque_bytes != 0) {
      const std::size_t used = from.info().bytes_used[p] != 0 ? from.info().bytes_used[p] : in.size();
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
  if (auto ended = write->end(); !ended) return ended;
  return read->end();
}

int CopyStage::poll_fd() const noexcept { return waiting_ ? waiting_.ready().poll_fd() : -1; }
short CopyStage::poll_events() const noexcept { return poll_fd() < 0 ? 0 : POLLIN; }
Result<void> CopyStage::dispatch(short) { return {}; }

Result<void> CopyStage::drain(Deadline deadline) {
  if (!waiting_) return {};
  if (auto ready = waiting_.ready().wait(deadline); !ready) return ready;
  auto last = take();
  if (!last) return std::unexpected(last.error());
  finished_ = std::move(*last);
  return {};
}

Result<void> CopyStage::stop() noexcept {
  waiting_.release();
  finished_.release();
  pool_.reset();
  input_maps_.clear();
  output_maps_.clear();
  return {};
}

}  // namespace dmaflow
