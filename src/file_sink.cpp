#include <dmaflow/file_sink.hpp>

#include "buffer_maps.hpp"
#include "file_writer.hpp"
#include "raw_file.hpp"
#include "y4m.hpp"

#include <dmaflow/thread_sink.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

namespace dmaflow {
namespace {

using Container = FileSinkOptions::Container;

Container container_of(const std::string& path, Container wanted) noexcept {
  if (wanted != Container::by_name) return wanted;
  return path == "-" || path.ends_with(".y4m") ? Container::y4m : Container::raw;
}

/// The visible part of a picture, within the layout. All of it if none is stated.
Rect visible_part(const FrameInfo& info, const Layout& layout) noexcept {
  const auto [width, height] = layout.size;
  const auto x = static_cast<std::uint32_t>(std::max(info.visible.x, 0));
  const auto y = static_cast<std::uint32_t>(std::max(info.visible.y, 0));
  if (info.visible.width == 0 || info.visible.height == 0 || x >= width || y >= height) {
    return {.x = 0, .y = 0, .width = width, .height = height};
  }
  return {.x = static_cast<std::int32_t>(x),
          .y = static_cast<std::int32_t>(y),
          .width = std::min(info.visible.width, width - x),
          .height = std::min(info.visible.height, height - y)};
}

}  // namespace

struct FileSink::Impl {
  Impl(std::string where, Container format)
      : path(std::move(where)), title(path == "-" ? "standard output" : path), container(format) {}

  const std::string path;
  const std::string title;
  const Container container;
  std::unique_ptr<ThreadSink> thread;
  std::atomic<std::uint64_t> written{0};

  // For the loop's thread only. It may also use the members after the blank line while the worker does not run.
  std::optional<StreamConfig> recorded;  // the stream of the frames in the file, once it has some

  StreamConfig config;
  FileWriter file;
  std::mutex maps_mutex;  // buffers may be added and removed while the worker looks up a map
  detail::BufferMaps maps;
  const y4m::Mapping* mapping = nullptr;  // of the format, for y4m
  std::optional<Size> picture;            // the size of the file's frames, once it has one
  bool is_begun = false;                  // the header was written
  bool is_opaque = false;

  [[nodiscard]] Error error(int code, const char* operation) const { return Error::os(code, operation, title); }
  [[nodiscard]] bool has_description() const noexcept { return container == Container::raw && file.is_regular(); }

  [[nodiscard]] Result<void> check(const StreamConfig& wanted) const;
  [[nodiscard]] Result<void> open();
  Result<void> write_description(std::optional<std::uint64_t> frames);
  Result<void> close();

  // In the worker's thread.
  Result<void> write(const Frame& frame, const Cancel& stop);
  Result<void> begin(const Frame& frame, const Cancel& stop);
  Result<void> write_pixels(const CpuAccess& pixels, const Frame& frame, const Cancel& stop);
  Result<void> write_y4m(const CpuAccess& pixels, const Layout& layout, Rect part, const Cancel& stop);
  Result<void> write_raw(const CpuAccess& pixels, const Layout& layout, Rect part, const Cancel& stop);
  Result<void> write_opaque(const CpuAccess& pixels, const FrameInfo& info, const Cancel& stop);
};

// --- In the worker's thread ------------------------------------------------------------------------------------------

Result<void> FileSink::Impl::write(const Frame& frame, const Cancel& stop) {
  const CpuMap* map = [&] {
    const std::lock_guard lock(maps_mutex);
    return detail::map_of(maps, frame.buffer());
  }();
  if (map == nullptr) return std::unexpected(error(EINVAL, "FileSink").detail("a buffer it was not started with"));
  auto pixels = CpuAccess::begin(*map, Access::read, Deadline::at(Deadline::Clock::time_point::max()), &stop);
  if (!pixels) return std::unexpected(pixels.error());
  auto done = begin(frame, stop);
  if (done) done = write_pixels(*pixels, frame, stop);
  if (done) done = file.flush(&stop);
  if (!done) {
    file.undo();
    if (written == 0) {  // the header was removed with the frame
      is_begun = false;
      picture.reset();
    }
    return done;
  }
  file.commit();
  ++written;
  return pixels->end();
}

/// Before each frame: checks that it has the file's size. Before the first: writes the header.
Result<void> FileSink::Impl::begin(const Frame& frame, const Cancel& stop) {
  const Rect part = visible_part(frame.info(), frame.buffer().layout());
  const Size size{part.width, part.height};
  if (!picture) picture = size;
  if (!is_opaque && size != *picture) {
    return std::unexpected(error(EINVAL, "FileSink")
                               .detail("frame %llu shows %ux%u, and the file holds %ux%u: write another file",
                                       static_cast<unsigned long long>(frame.info().sequence), size.width, size.height,
                                       picture->width, picture->height));
  }
  if (std::exchange(is_begun, true)) return {};
  if (mapping != nullptr) {
    return file.put(y4m::header(*mapping, size, config.interval, config.color.range), &stop);
  }
  return has_description() ? write_description(std::nullopt) : Result<void>{};
}

Result<void> FileSink::Impl::write_pixels(const CpuAccess& pixels, const Frame& frame, const Cancel& stop) {
  const Layout& layout = frame.buffer().layout();
  if (is_opaque) return write_opaque(pixels, frame.info(), stop);
  const Rect part = visible_part(frame.info(), layout);
  return mapping != nullptr ? write_y4m(pixels, layout, part, stop) : write_raw(pixels, layout, part, stop);
}

Result<void> FileSink::Impl::write_y4m(const CpuAccess& pixels, const Layout& layout, Rect part, const Cancel& stop) {
  if (auto put = file.put("FRAME\n", &stop); !put) return put;
  for (std::size_t i = 0; i < mapping->component_count; ++i) {
    const auto size = y4m::component_size(*mapping, i, {part.width, part.height});
    const std::uint32_t left = static_cast<std::uint32_t>(part.x) / (i == 0 ? 1U : mapping->horizontal_sub);
    const std::uint32_t top = static_cast<std::uint32_t>(part.y) / (i == 0 ? 1U : mapping->vertical_sub);
    const std::uint32_t plane = mapping->components[i].plane;
    const auto bytes = pixels.plane(plane);
    for (std::size_t y = 0; y < size.height; ++y) {
      auto room = file.room(std::size_t{size.width} * mapping->sample_bytes, &stop);
      if (!room) return std::unexpected(room.error());
      y4m::copy_row(*mapping, i, bytes.subspan((top + y) * layout.planes[plane].stride), left, *room);
    }
  }
  return {};
}

Result<void> FileSink::Impl::write_raw(const CpuAccess& pixels, const Layout& layout, Rect part, const Cancel& stop) {
  const auto target = raw_file::frame_layout(layout.format, {part.width, part.height});
  if (!target) return std::unexpected(target.error());
  const FormatInfo& info = *format_info(layout.format);
  for (std::uint32_t p = 0; p < target->plane_count; ++p) {
    const PlaneInfo& plane = info.planes[p];
    const std::size_t stride = layout.planes[p].stride;
    const std::size_t row = target->row_bytes(p);
    const std::size_t rows = target->rows(p);
    const std::size_t left =
        static_cast<std::size_t>(part.x) / plane.horizontal_sub / plane.block_width * plane.block_bytes;
    const std::size_t top = static_cast<std::size_t>(part.y) / plane.vertical_sub;
    const auto bytes = pixels.plane(p).subspan(top * stride + left);
    if (row == stride) {
      if (auto put = file.put(bytes.first(row * rows), &stop); !put) return put;
      continue;
    }
    for (std::size_t y = 0; y < rows; ++y) {
      if (auto put = file.put(bytes.subspan(y * stride, row), &stop); !put) return put;
    }
  }
  return {};
}

Result<void> FileSink::Impl::write_opaque(const CpuAccess& pixels, const FrameInfo& info, const Cancel& stop) {
  const auto bytes = pixels.plane(0);
  const std::size_t used = info.bytes_used[0] != 0 ? info.bytes_used[0] : bytes.size();
  return file.put(bytes.first(std::min(used, bytes.size())), &stop);
}

// --- While no worker runs --------------------------------------------------------------------------------------------

Result<void> FileSink::Impl::check(const StreamConfig& wanted) const {
  const PixelFormat format = wanted.layout.format;
  const auto refuse = [&] { return error(EINVAL, "FileSink::check_input"); };
  if (container == Container::y4m && y4m::mapping_of(format) == nullptr) {
    return std::unexpected(
        refuse().detail("y4m does not hold %s; it holds %s. Container::raw holds every linear format",
                        format.name().c_str(), y4m::format_names().c_str()));
  }
  const FormatInfo* info = format_info(format);
  if (info == nullptr) return std::unexpected(refuse().detail("format %s is not in the table", format.code().c_str()));
  if (!info->is_opaque && !wanted.layout.modifier.is_linear()) {
    return std::unexpected(
        refuse().detail("modifier %s: only LINEAR can be read row by row", wanted.layout.modifier.name().c_str()));
  }
  if (!recorded || written == 0) return {};
  const bool is_same = recorded->layout.format == format && recorded->interval == wanted.interval &&
                       (info->is_opaque || recorded->layout.size == wanted.layout.size);
  if (is_same) return {};
  return std::unexpected(refuse().detail("%s, and the file holds %s: write another file", wanted.describe().c_str(),
                                         recorded->describe().c_str()));
}

Result<void> FileSink::Impl::open() {
  if (auto opened = file.open(path, written == 0); !opened) return opened;
  if (written == 0) recorded = config;
  if (path != "-" && !file.is_regular()) is_begun = false;  // a new reader of the pipe needs a header
  mapping = container == Container::y4m ? y4m::mapping_of(config.layout.format) : nullptr;
  const FormatInfo* info = format_info(config.layout.format);
  is_opaque = info != nullptr && info->is_opaque;
  return {};
}

Result<void> FileSink::Impl::write_description(std::optional<std::uint64_t> frames) {
  FileWriter description;
  auto done = description.open(path + ".json", true);
  const Size size = picture.value_or(config.layout.size);
  if (done) done = description.put(raw_file::description(path, config, size, frames), nullptr);
  if (done) done = description.flush(nullptr);
  return done;
}

Result<void> FileSink::Impl::close() {
  if (!file.is_open()) return {};
  const bool describes = has_description();
  file.close();
  maps.clear();
  return describes ? write_description(written) : Result<void>{};
}

// --- In the loop's thread --------------------------------------------------------------------------------------------

FileSink::FileSink(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
FileSink::~FileSink() { stop(); }

Result<std::unique_ptr<FileSink>> FileSink::create(std::string path, FileSinkOptions options) {
  if (path.empty()) return std::unexpected(Error::os(EINVAL, "FileSink::create").detail("there is no path"));
  const Container container = container_of(path, options.container);
  auto impl = std::make_unique<Impl>(std::move(path), container);
  Impl& my = *impl;
  auto thread = ThreadSink::create([&my](const Frame& frame, const Cancel& stop) { return my.write(frame, stop); },
                                   {.name = my.title, .queue = options.queue});
  if (!thread) return std::unexpected(thread.error());
  my.thread = std::move(*thread);
  return std::unique_ptr<FileSink>(new FileSink(std::move(impl)));
}

std::uint64_t FileSink::written() const noexcept { return impl_->written.load(std::memory_order_relaxed); }
std::string_view FileSink::name() const noexcept { return impl_->title; }
Needs FileSink::needs() const { return impl_->thread->needs(); }
std::uint32_t FileSink::max_held() const noexcept { return impl_->thread->max_held(); }
std::uint64_t FileSink::dropped() const noexcept { return impl_->thread->dropped(); }
int FileSink::poll_fd() const noexcept { return impl_->thread->poll_fd(); }
short FileSink::poll_events() const noexcept { return impl_->thread->poll_events(); }
Result<void> FileSink::dispatch(short revents) { return impl_->thread->dispatch(revents); }
bool FileSink::ready() const noexcept { return impl_->thread->ready(); }
Result<Frame> FileSink::accept(Frame frame) { return impl_->thread->accept(std::move(frame)); }
Result<void> FileSink::flush() { return impl_->thread->flush(); }
Result<void> FileSink::drain(Deadline deadline, const Cancel* cancel) { return impl_->thread->drain(deadline, cancel); }
Result<void> FileSink::check_input(const StreamConfig& config) { return impl_->check(config); }

Result<void> FileSink::set_input(const StreamConfig& config) {
  if (auto checked = check_input(config); !checked) return checked;
  if (auto configured = impl_->thread->set_input(config); !configured) return configured;
  impl_->config = config;
  return {};
}

Result<void> FileSink::import(const Buffer& buffer) { return detail::try_map(buffer, Access::read); }

Result<void> FileSink::add_buffer(const Buffer& buffer) {
  Impl& my = *impl_;
  if (detail::map_of(my.maps, buffer) != nullptr) return {};
  const std::lock_guard lock(my.maps_mutex);
  return detail::add_map(my.maps, buffer, Access::read);
}

void FileSink::remove_buffer(const Buffer& buffer) noexcept {
  const std::lock_guard lock(impl_->maps_mutex);
  detail::remove_map(impl_->maps, buffer);
}

Result<void> FileSink::start(std::span<const Buffer> buffers) {
  if (auto stopped = stop(); !stopped) return stopped;
  Impl& my = *impl_;
  auto maps = detail::map_all(buffers, Access::read);
  if (!maps) return std::unexpected(maps.error());
  if (auto opened = my.open(); !opened) return opened;
  my.maps = std::move(*maps);
  auto started = my.thread->start(buffers);
  if (!started) {
    my.maps.clear();
    my.file.close();
  }
  return started;
}

Result<void> FileSink::stop() noexcept {
  auto stopped = impl_->thread->stop();
  auto closed = impl_->close();
  return stopped ? closed : stopped;
}

}  // namespace dmaflow
