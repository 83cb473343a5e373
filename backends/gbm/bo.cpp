#include "bo.hpp"

#include "impl.hpp"

#include "sys/drm_ioctl.hpp"
#include "uapi/drm_gem.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <gbm.h>

namespace dmaflow::gbm {
namespace {

std::uint32_t flags_of(const Usage& usage) noexcept {
  std::uint32_t flags = 0;
  if (usage.scanout) flags |= GBM_BO_USE_SCANOUT;
  if (usage.render) flags |= GBM_BO_USE_RENDERING;
  return flags;
}

/// The ways to make a bo, in the order of the request's modifiers.
class Attempts {
 public:
  Attempts(GbmFile& file, const Request& request, Size size)
      : file_(file), request_(request), size_(size), list_{request.format.fourcc, flags_of(request.usage), {}} {
    for (const Modifier modifier : request.modifiers) {
      if (!modifier.is_implicit()) list_.modifiers.push_back(modifier.value());
    }
  }

  [[nodiscard]] Result<Bo> make() {
    for (const Modifier modifier : request_.modifiers) {
      if (modifier.is_implicit()) {
        if (Bo bo = plain(0, Modifier::implicit()); bo.pointer) return bo;
        continue;
      }
      if (Bo bo = from_list(); bo.pointer) return bo;
      if (!modifier.is_linear()) continue;
      if (Bo bo = plain(GBM_BO_USE_LINEAR, Modifier::linear()); bo.pointer) return bo;
    }
    return std::unexpected(refusal());
  }

 private:
  /// The driver's choice among the explicit modifiers; an empty Bo if it does not support modifiers. Tried once, and
  /// not at all if the last answer to the same list was INVALID: each buffer of a pool would be made twice.
  [[nodiscard]] Bo from_list() {
    if (std::exchange(tried_list_, true) || list_ == file_.silent) return {};
    errno = 0;
    Bo bo{BoPointer(gbm_bo_create_with_modifiers2(file_.device, size_.width, size_.height, list_.fourcc,
                                                  list_.modifiers.data(), static_cast<unsigned>(list_.modifiers.size()),
                                                  list_.flags)),
          {}};
    note(bo.pointer != nullptr);
    if (!bo.pointer) return {};
    // INVALID: the driver accepted the list, and does not report which modifier it chose.
    bo.modifier = Modifier::from_value(gbm_bo_get_modifier(bo.pointer.get()));
    if (std::ranges::find(list_.modifiers, bo.modifier.value()) != list_.modifiers.end()) return bo;
    if (bo.modifier.is_implicit()) {
      file_.silent = list_;
    } else {
      strange_ = bo.modifier;
    }
    return {};
  }

  /// Without a list of modifiers. The bo gets the agreed modifier, not the one that the driver reports unasked: an
  /// implicit buffer stays implicit.
  [[nodiscard]] Bo plain(std::uint32_t more_flags, Modifier agreed) {
    errno = 0;
    Bo bo{BoPointer(gbm_bo_create(file_.device, size_.width, size_.height, request_.format.fourcc,
                                  flags_of(request_.usage) | more_flags)),
          agreed};
    note(bo.pointer != nullptr);
    if (!bo.pointer) return {};
    const Modifier said = Modifier::from_value(gbm_bo_get_modifier(bo.pointer.get()));
    if (agreed.is_implicit() || said.is_implicit() || said == agreed) return bo;
    strange_ = said;
    return {};
  }

  void note(bool worked) noexcept {
    const int code = errno;
    if (!worked && code != 0 && code != ENOSYS && first_errno_ == 0) first_errno_ = code;
  }

  [[nodiscard]] Error refusal() const {
    std::string wanted;
    for (const Modifier modifier : request_.modifiers)
      wanted.append(wanted.empty() ? "" : ", ").append(modifier.name());
    const bool is_known =
        gbm_device_is_format_supported(file_.device, request_.format.fourcc, flags_of(request_.usage)) != 0;
    Error error = Error::os(first_errno_ != 0 ? first_errno_ : EINVAL, "gbm_bo_create", file_.name);
    const char* why = "the driver makes none";
    if (first_errno_ == EACCES || first_errno_ == EPERM) {
      why = "a render node whose driver gives dumb buffers only: use the card's primary node (/dev/dri/cardN)";
    } else if (!is_known) {
      why = "the driver does not know this format for this use";
    } else if (first_errno_ == 0) {
      why = "the driver makes none with these modifiers";
    }
    error.detail("%ux%u %s %s%s%s: %s", size_.width, size_.height, request_.format.name().c_str(), wanted.c_str(),
                 request_.usage.scanout ? ", scanout" : "", request_.usage.render ? ", render" : "", why);
    if (strange_) {
      error.detail("%s asked for, and the driver answers with modifier %s", wanted.c_str(), strange_->name().c_str());
    }
    return error;
  }

  GbmFile& file_;
  const Request& request_;
  Size size_;
  ModifierList list_;
  bool tried_list_ = false;
  int first_errno_ = 0;
  std::optional<Modifier> strange_;
};

/// A plane's dma-buf. Some drivers (Mesa's software one) export without write access, and a dma-buf keeps the access
/// mode of its first export. So the first export is made here, with write access; libgbm's is then the same dma-buf.
Result<Fd> export_plane(const GbmFile& file, gbm_bo* bo, int plane) {
  Fd writable;
  if (const gbm_bo_handle handle = gbm_bo_get_handle_for_plane(bo, plane); handle.s32 > 0) {
    uapi::PrimeHandle prime{.handle = handle.u32, .flags = O_CLOEXEC | O_RDWR, .fd = -1};
    const int result = sys::drm_ioctl(file.fd, uapi::ioctl_prime_handle_to_fd, &prime);
    // ENOENT: with some drivers the memory and its handle belong to another DRM file.
    if (result < 0 && result != -ENOENT) return std::unexpected(file.error(result, "DRM_IOCTL_PRIME_HANDLE_TO_FD"));
    if (result == 0) writable = Fd::adopt(prime.fd);
  }
  errno = 0;
  Fd fd = Fd::adopt(gbm_bo_get_fd_for_plane(bo, plane));
  if (fd) return fd;
  const int code = errno;
  return std::unexpected(
      file.error(code != 0 ? -code : -EIO, "gbm_bo_get_fd_for_plane").detail("plane %d cannot be exported", plane));
}

}  // namespace

void BoDeleter::operator()(gbm_bo* bo) const noexcept { gbm_bo_destroy(bo); }

Result<Bo> create_bo(GbmFile& file, const Request& request, Size size) { return Attempts(file, request, size).make(); }

Result<Buffer> export_bo(const GbmFile& file, const Bo& bo, PixelFormat format, Size size) {
  gbm_bo* const raw = bo.pointer.get();
  const int planes = gbm_bo_get_plane_count(raw);
  const bool is_as_asked = gbm_bo_get_format(raw) == format.fourcc && gbm_bo_get_width(raw) >= size.width &&
                           gbm_bo_get_height(raw) >= size.height;
  if (planes < 1 || planes > static_cast<int>(max_planes) || !is_as_asked) {
    return std::unexpected(file.error(-EINVAL, "gbm_bo_create")
                               .detail("asked for %ux%u %s, the driver made %ux%u %s of %d planes", size.width,
                                       size.height, format.name().c_str(), gbm_bo_get_width(raw),
                                       gbm_bo_get_height(raw), PixelFormat{gbm_bo_get_format(raw)}.name().c_str(),
                                       planes));
  }
  Layout layout;
  layout.size = size;
  layout.format = format;
  layout.modifier = bo.modifier;
  layout.plane_count = static_cast<std::uint32_t>(planes);
  std::array<Fd, max_planes> objects;
  for (int p = 0; p < planes; ++p) {
    const auto at = static_cast<std::size_t>(p);
    layout.planes[at] = {.object = static_cast<std::uint32_t>(p),
                         .offset = gbm_bo_get_offset(raw, p),
                         .stride = gbm_bo_get_stride_for_plane(raw, p)};
    auto exported = export_plane(file, raw, p);
    if (!exported) return std::unexpected(exported.error());
    objects[at] = std::move(*exported);
  }
  auto buffer =
      Buffer::create(layout, std::span(objects).first(layout.plane_count), {.is_protected = false, .origin = "gbm"});
  if (!buffer) buffer.error().device(file.name);
  return buffer;
}

}  // namespace dmaflow::gbm
