// One gbm_device: its properties, and the teardown of everything that belongs to it.
#include "impl.hpp"

#include <cerrno>

#include <gbm.h>

namespace dmaflow::gbm {

Result<void> GbmFile::check_alive(const char* operation) const noexcept {
  if (device != nullptr) return {};
  return std::unexpected(Error::os(ENODEV, operation, name).detail("the device was detached"));
}

Device::Device(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Device::~Device() = default;

void Device::Impl::detach() noexcept {
  if (file.device == nullptr) return;
  file.domain->detach();
  if (owns_device()) {
    {
      GemRegistry::Session session(*file.gem);
      gbm_device_destroy(file.device);
    }
    file.gem->detach();
    owned.reset();
  }
  file.device = nullptr;
  file.fd = -1;
}

void Device::detach() noexcept { impl_->detach(); }

std::string_view Device::name() const noexcept { return impl_->file.name; }
std::string_view Device::driver() const noexcept { return impl_->file.driver; }
int Device::fd() const noexcept { return impl_->file.fd; }
gbm_device* Device::get() const noexcept { return impl_->file.device; }
std::shared_ptr<GemRegistry> Device::gem() const noexcept { return impl_->file.gem; }
Allocator& Device::allocator() noexcept { return impl_->allocator; }

std::string_view Device::backend() const noexcept {
  const char* const name = impl_->file.device == nullptr ? nullptr : gbm_device_get_backend_name(impl_->file.device);
  return name == nullptr ? std::string_view() : std::string_view(name);
}

Result<std::vector<FormatUse>> Device::formats() const {
  if (auto alive = impl_->file.check_alive("formats"); !alive) return std::unexpected(alive.error());
  std::vector<FormatUse> result;
  for (const FormatInfo& info : known_formats()) {
    const auto says_yes = [&](std::uint32_t flags) {
      return gbm_device_is_format_supported(impl_->file.device, info.format.fourcc, flags) != 0;
    };
    if (info.is_opaque) continue;
    const FormatUse use{.format = info.format,
                        .scanout = says_yes(GBM_BO_USE_SCANOUT),
                        .render = says_yes(GBM_BO_USE_RENDERING),
                        .linear = says_yes(GBM_BO_USE_LINEAR)};
    if (use.scanout || use.render || use.linear || says_yes(0)) result.push_back(use);
  }
  return result;
}

Result<std::uint32_t> Device::plane_count(PixelFormat format, Modifier modifier) const {
  if (auto alive = impl_->file.check_alive("plane_count"); !alive) return std::unexpected(alive.error());
  const int count = gbm_device_get_format_modifier_plane_count(impl_->file.device, format.fourcc, modifier.value());
  if (count > 0 && count <= static_cast<int>(max_planes)) return static_cast<std::uint32_t>(count);
  return std::unexpected(
      impl_->file.error(-EINVAL, "gbm_device_get_format_modifier_plane_count")
          .detail("the driver has no %s with modifier %s", format.name().c_str(), modifier.name().c_str()));
}

}  // namespace dmaflow::gbm
