// The insides of gbm::Device.
#pragma once

#include "allocator.hpp"

#include <dmaflow/attachment.hpp>
#include <dmaflow/fd.hpp>
#include <dmaflow/gbm.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dmaflow::gbm {

/// A use and the explicit modifiers asked for it.
struct ModifierList {
  std::uint32_t fourcc = 0;
  std::uint32_t flags = 0;
  std::vector<std::uint64_t> modifiers;
  friend bool operator==(const ModifierList&, const ModifierList&) = default;
};

/// What the parts of a device share.
struct GbmFile {
  gbm_device* device = nullptr;  // nullptr once detached
  int fd = -1;
  std::string name;
  std::string driver;
  std::shared_ptr<GemRegistry> gem;
  std::shared_ptr<AttachmentDomain> domain = AttachmentDomain::create();
  ModifierList silent;  // the last that the driver took, and made a bo of unknown modifier of. The device's thread

  /// An Error of this device for a seam call that returned -errno.
  [[nodiscard]] Error error(int negative_errno, const char* operation) const noexcept {
    return Error::os(-negative_errno, operation, name);
  }
  [[nodiscard]] Result<void> check_alive(const char* operation) const noexcept;
};

struct Device::Impl {
  Fd owned;  // our own file, where the gbm_device is ours too
  GbmFile file;
  Allocation allocator{file};

  ~Impl() { detach(); }
  void detach() noexcept;
  [[nodiscard]] bool owns_device() const noexcept { return static_cast<bool>(owned); }
};

/// The driver's name, or -ENOTTY where this is no DRM file. open.cpp
[[nodiscard]] int driver_of(int fd, std::string& driver);

}  // namespace dmaflow::gbm
