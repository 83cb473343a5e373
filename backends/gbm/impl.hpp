// The internals of gbm::Device.
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

/// A format and use, and the explicit modifiers requested for it.
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
  ModifierList silent;  // the last one that the driver accepted without reporting its choice. The device's thread only

  /// An Error of this device for a sys:: call that returned -errno.
  [[nodiscard]] Error error(int negative_errno, const char* operation) const noexcept {
    return Error::os(-negative_errno, operation, name);
  }
  [[nodiscard]] Result<void> check_alive(const char* operation) const noexcept;
};

struct Device::Impl {
  Fd owned;  // our own file, if the gbm_device is ours too
  GbmFile file;
  Allocation allocator{file};

  ~Impl() { detach(); }
  void detach() noexcept;
  [[nodiscard]] bool owns_device() const noexcept { return static_cast<bool>(owned); }
};

/// Reads the driver's name. -ENOTTY if this is not a DRM file. In open.cpp.
[[nodiscard]] int driver_of(int fd, std::string& driver);

}  // namespace dmaflow::gbm
