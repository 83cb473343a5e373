#include "allocator.hpp"

#include <array>
#include <cerrno>

namespace dmaflow::v4l2 {

CameraAllocator::CameraAllocator(const Device& device, Queue& queue)
    : device_(device), queue_(queue), domain_(AttachmentDomain::create()) {}

CameraAllocator::~CameraAllocator() { domain_->detach(); }

Result<void> CameraAllocator::configure(const Agreed& agreed, const StreamConfig& config) {
  if (auto closed = close(); !closed) return closed;
  agreed_ = agreed;
  config_ = config;
  return {};
}

std::optional<std::uint32_t> CameraAllocator::slot_of(const Buffer& buffer) const noexcept {
  if (!buffer || set_ == nullptr) return std::nullopt;
  const SlotMark* mark = attachment_as<SlotMark>(buffer, *domain_);
  if (mark == nullptr || mark->set() != set_.get()) return std::nullopt;
  return mark->slot();
}

Result<void> CameraAllocator::close() noexcept {
  set_.reset();
  return queue_.close();
}

Result<void> CameraAllocator::check(const Request& request) const {
  if (auto checked = check_request(request, name()); !checked) return checked;
  const auto refuse = [&](int code) { return device_.error(code, "allocate"); };
  if (!agreed_)
    return std::unexpected(
        refuse(EINVAL).detail("set_output() comes first: a camera allocates for the stream it is set to"));
  if (queue_.is_streaming()) return std::unexpected(refuse(EBUSY).detail("the camera is streaming"));
  const Layout& layout = config_.layout;
  if (request.size != layout.size || request.format != layout.format) {
    return std::unexpected(refuse(EINVAL).detail("asked for %ux%u %s, but the camera is set to %ux%u %s",
                                                 request.size.width, request.size.height, request.format.code().c_str(),
                                                 layout.size.width, layout.size.height, layout.format.code().c_str()));
  }
  bool accepted = false;
  for (const Modifier modifier : request.modifiers) accepted = accepted || modifier == layout.modifier;
  if (!accepted)
    return std::unexpected(refuse(EINVAL).detail("the camera makes %s only", layout.modifier.name().c_str()));
  const Constraints& asked = request.constraints;
  for (std::uint32_t i = 0; i < layout.plane_count; ++i) {
    const PlaneLayout& plane = layout.planes[i];
    const bool stride_fits = plane.stride >= asked.min_stride[i] &&
                             (asked.stride_alignment == 0 || plane.stride % asked.stride_alignment == 0);
    const bool offset_fits = asked.offset_alignment == 0 || plane.offset % asked.offset_alignment == 0;
    if (!stride_fits || !offset_fits) {
      return std::unexpected(refuse(EINVAL).detail(
          "the camera puts plane %u at offset %u with stride %u; asked for: stride %u at least, stride alignment %u, "
          "offset alignment %u",
          i, plane.offset, plane.stride, asked.min_stride[i], asked.stride_alignment, asked.offset_alignment));
    }
  }
  if (asked.separate_objects && layout.plane_count > 1 && agreed_->format.planes == 1) {
    return std::unexpected(refuse(EINVAL).detail("the camera keeps all planes in one buffer"));
  }
  return {};
}

/// Makes slots for @p count more buffers; returns the first.
Result<std::uint32_t> CameraAllocator::reserve(std::uint32_t count) {
  const bool extend = set_ != nullptr && set_->live != 0;
  std::uint32_t first = 0;
  std::uint32_t got = count;
  if (extend) {
    auto begin = queue_.extend(got, agreed_->format.raw);
    if (!begin) return std::unexpected(begin.error());
    first = *begin;
  } else {
    if (auto closed = close(); !closed) return std::unexpected(closed.error());
    auto slots = request_as_agreed(device_, queue_, *agreed_, V4L2_MEMORY_MMAP, count);
    if (!slots) return std::unexpected(slots.error());
    got = *slots;
    set_ = std::make_shared<SlotSet>();
  }
  if (got < count || first + count > max_slots) {
    if (!extend) (void)close();
    return std::unexpected(device_.error(ENOMEM, extend ? "VIDIOC_CREATE_BUFS" : "VIDIOC_REQBUFS")
                               .detail("asked for %u buffers, the driver makes %u: ask for fewer", count, got));
  }
  return first;
}

Result<Buffer> CameraAllocator::make(std::uint32_t slot) {
  std::array<Fd, max_planes> objects;
  for (std::uint32_t plane = 0; plane < agreed_->format.planes; ++plane) {
    auto fd = queue_.export_plane(slot, plane);
    if (!fd) return std::unexpected(fd.error());
    objects[plane] = std::move(*fd);
  }
  auto buffer = Buffer::create(config_.layout, std::span(objects).first(agreed_->format.planes),
                               {.is_protected = false, .origin = "camera"});
  if (!buffer) return buffer;
  auto attached = buffer->attach(domain_, std::make_unique<SlotMark>(set_, slot));
  if (!attached) return std::unexpected(attached.error());
  return buffer;
}

Result<std::vector<Buffer>> CameraAllocator::allocate(const Request& request) {
  if (auto checked = check(request); !checked) return std::unexpected(checked.error());
  auto first = reserve(request.count);
  if (!first) return std::unexpected(first.error());
  std::vector<Buffer> buffers;
  buffers.reserve(request.count);
  for (std::uint32_t i = 0; i < request.count; ++i) {
    auto buffer = make(*first + i);
    if (!buffer) {
      buffers.clear();
      if (set_->live == 0) (void)close();
      return std::unexpected(buffer.error());
    }
    const std::uint64_t asked = request.constraints.min_object_size[0];
    if (buffer->size(0) < asked) {
      Error error = device_.error(EINVAL, "allocate");
      error.detail("the camera's buffers have %llu bytes, asked for %llu",
                   static_cast<unsigned long long>(buffer->size(0)), static_cast<unsigned long long>(asked));
      *buffer = {};
      buffers.clear();
      if (set_->live == 0) (void)close();
      return std::unexpected(error);
    }
    buffers.push_back(std::move(*buffer));
  }
  return buffers;
}

}  // namespace dmaflow::v4l2
