// What all parts of a device share: the file, its name and the capabilities of its driver.
#pragma once

#include <dmaflow/attachment.hpp>
#include <dmaflow/error.hpp>
#include <dmaflow/gem.hpp>

#include <memory>
#include <string>

namespace dmaflow::kms {

struct DrmFile {
  int fd = -1;  // owned by the device; -1 once detached
  std::string name;
  std::string driver;
  bool modifiers = false;     // DRM_CAP_ADDFB2_MODIFIERS
  bool prime_import = false;  // DRM_CAP_PRIME
  bool prime_export = false;
  bool dumb = false;                 // DRM_CAP_DUMB_BUFFER
  bool monotonic = false;            // DRM_CAP_TIMESTAMP_MONOTONIC
  bool closefb = false;              // DRM_IOCTL_MODE_CLOSEFB
  std::shared_ptr<GemRegistry> gem;  // exists as long as the device
  std::shared_ptr<AttachmentDomain> domain = AttachmentDomain::create();

  [[nodiscard]] bool is_master() const noexcept;
  /// An Error of this device for a sys:: call that returned -errno.
  [[nodiscard]] Error error(int negative_errno, const char* operation) const noexcept {
    return Error::os(-negative_errno, operation, name);
  }
};

}  // namespace dmaflow::kms
