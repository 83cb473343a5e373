#include "dumb.hpp"

#include "drm_ioctl.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <string_view>

#include <drm.h>
#include <drm_mode.h>
#include <fcntl.h>

namespace dmaflow::kms {
namespace {

/// What to request from the kernel for an object: packed formats with their bits per pixel, YUV planes as rows of
/// bytes.
struct Shape {
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::uint32_t bits = 8;
};

std::uint32_t divide_up(std::uint64_t value, std::uint64_t by) {
  return static_cast<std::uint32_t>((value + by - 1) / by);
}

bool is_aligned(std::uint64_t value, std::uint32_t alignment) { return alignment <= 1 || value % alignment == 0; }

std::uint32_t first_plane_of(const Layout& layout, std::uint32_t object) {
  for (std::uint32_t p = 0; p < layout.plane_count; ++p) {
    if (layout.planes[p].object == object) return p;
  }
  return 0;
}

Shape shape_of(const Layout& layout, std::uint32_t object, std::uint64_t bytes) {
  const std::uint32_t plane = first_plane_of(layout, object);
  const std::uint32_t stride = layout.planes[plane].stride;
  Shape shape{.width = stride, .height = divide_up(bytes, stride), .bits = 8};
  const FormatInfo* info = format_info(layout.format);
  if (info == nullptr || info->plane_count != 1) return shape;
  const std::uint32_t bits = info->bits_per_pixel;
  if (bits >= 8 && bits % 8 == 0 && stride % (bits / 8) == 0) {
    shape.bits = bits;
    shape.width = stride / (bits / 8);
  }
  return shape;
}

/// Changes the layout to the driver's stride. The strides of the object's planes keep their ratio.
void widen(Layout& layout, std::uint32_t object, std::uint32_t stride, std::uint32_t offset_alignment) {
  const std::uint32_t first = first_plane_of(layout, object);
  const std::uint32_t old = layout.planes[first].stride;
  std::uint64_t offset = layout.planes[first].offset;
  for (std::uint32_t p = first; p < layout.plane_count; ++p) {
    PlaneLayout& plane = layout.planes[p];
    if (plane.object != object) continue;
    plane.stride = static_cast<std::uint32_t>(std::uint64_t{plane.stride} * stride / old);
    if (offset_alignment > 1) offset = std::uint64_t{divide_up(offset, offset_alignment)} * offset_alignment;
    plane.offset = static_cast<std::uint32_t>(offset);
    offset += std::uint64_t{plane.stride} * layout.rows(p);
  }
}

}  // namespace

int DumbHandle::create(std::uint32_t width, std::uint32_t height, std::uint32_t bits) noexcept {
  reset();
  drm_mode_create_dumb request{};
  request.width = width;
  request.height = height;
  request.bpp = bits;
  const int result = drm_ioctl(file_.fd, DRM_IOCTL_MODE_CREATE_DUMB, &request);
  if (result < 0) return result;
  id_ = request.handle;
  stride_ = request.pitch;
  size_ = request.size;
  session_.add(id_);
  return 0;
}

void DumbHandle::reset() noexcept {
  if (id_ != 0) session_.release(std::exchange(id_, 0));
}

Result<Fd> DumbHandle::export_dma_buf() noexcept {
  drm_prime_handle prime{.handle = id_, .flags = DRM_CLOEXEC | DRM_RDWR, .fd = -1};
  if (const int result = drm_ioctl(file_.fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime); result < 0) {
    return std::unexpected(file_.error(result, "DRM_IOCTL_PRIME_HANDLE_TO_FD"));
  }
  return Fd::adopt(prime.fd);
}

bool is_exported_by_drm(const Buffer& buffer) noexcept {
  std::array<char, 48> path{};
  std::snprintf(path.data(), path.size(), "/proc/self/fdinfo/%d", buffer.fd(0));
  const Fd file = Fd::adopt(sys::open(path.data(), O_RDONLY));
  std::array<char, 512> text{};
  const ssize_t length = file ? sys::read(file.get(), text.data(), text.size()) : -1;
  return length > 0 && std::string_view(text.data(), static_cast<std::size_t>(length)).contains("\nexp_name:\tdrm\n");
}

Result<std::vector<Buffer>> DumbAllocator::allocate(const Request& request) {
  if (file_.fd < 0) return std::unexpected(Error::os(ENODEV, "allocate", "display").detail("the device was detached"));
  if (auto checked = check_request(request, name()); !checked) return std::unexpected(checked.error());
  auto layout = linear_layout(request, name());
  if (!layout) return std::unexpected(layout.error());
  const FormatInfo* info = format_info(layout->format);
  if (info == nullptr || info->is_opaque) {
    return std::unexpected(
        Error::os(EINVAL, "allocate", file_.name).detail("a display has no memory for compressed bytes"));
  }
  std::vector<Buffer> buffers;
  buffers.reserve(request.count);
  for (std::uint32_t i = 0; i < request.count; ++i) {
    auto buffer = allocate_one(*layout, request.constraints);
    if (!buffer) return std::unexpected(buffer.error());
    buffers.push_back(std::move(*buffer));
  }
  made_first_ = buffers.front().id(0);
  return buffers;
}

Result<Buffer> DumbAllocator::allocate_one(const Layout& wanted, const Constraints& constraints) {
  Layout layout = wanted;
  std::array<Fd, max_planes> objects;
  const std::uint32_t count = layout.object_count();
  for (std::uint32_t object = 0; object < count; ++object) {
    auto made = allocate_object(constraints, layout, object);
    if (!made) return std::unexpected(made.error());
    objects[object] = std::move(*made);
  }
  return Buffer::create(layout, std::span(objects.data(), count), {.is_protected = false, .origin = "display"});
}

Result<Fd> DumbAllocator::allocate_object(const Constraints& constraints, Layout& layout, std::uint32_t object) {
  DumbHandle handle(file_);
  // The driver may choose a larger stride. Then the planes after the first one move, and the object may have to be
  // larger. Two attempts are enough: the second asks for the stride that the driver chose itself.
  for (int attempt = 0; attempt < 2; ++attempt) {
    const std::uint64_t bytes = layout.object_sizes(constraints)[object];
    const Shape shape = shape_of(layout, object, bytes);
    int result = handle.create(shape.width, shape.height, shape.bits);
    if (result == -EINVAL && shape.bits != 32) {  // virtio-gpu takes 32 bits only; the memory is the same
      const std::uint32_t row = layout.planes[first_plane_of(layout, object)].stride;
      result = handle.create(divide_up(row, 4), shape.height, 32);
    }
    if (result < 0) {
      return std::unexpected(
          file_.error(result, "DRM_IOCTL_MODE_CREATE_DUMB")
              .detail("%ux%u at %u bits: %s", shape.width, shape.height, shape.bits, layout.describe().c_str()));
    }
    const std::uint32_t stride = layout.planes[first_plane_of(layout, object)].stride;
    if (handle.stride() == stride && handle.size() >= bytes) return handle.export_dma_buf();
    if (handle.stride() < stride || !is_aligned(handle.stride(), constraints.stride_alignment)) {
      return std::unexpected(Error::os(EINVAL, "DRM_IOCTL_MODE_CREATE_DUMB", file_.name)
                                 .detail("the driver makes rows of %u bytes; wanted are %u or more, a multiple of %u",
                                         handle.stride(), stride, std::max(1U, constraints.stride_alignment)));
    }
    widen(layout, object, handle.stride(), constraints.offset_alignment);
    if (handle.size() >= layout.object_sizes(constraints)[object]) return handle.export_dma_buf();
  }
  return std::unexpected(Error::os(EINVAL, "DRM_IOCTL_MODE_CREATE_DUMB", file_.name)
                             .detail("the driver makes %llu bytes with rows of %u; wanted are %llu",
                                     static_cast<unsigned long long>(handle.size()), handle.stride(),
                                     static_cast<unsigned long long>(layout.object_sizes(constraints)[object])));
}

}  // namespace dmaflow::kms
