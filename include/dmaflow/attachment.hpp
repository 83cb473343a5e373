// Attachment: the imported form of a buffer on one device (a framebuffer, a Vulkan image, a V4L2 slot).
//
// An import is made once per buffer and device and found again without a system call. Both refer to it, and whichever
// is destroyed first tears it down:
//   - the last handle of a buffer is destroyed: each of its attachments is torn down, in the thread that dropped the
//   handle;
//   - the device is destroyed: AttachmentDomain::detach() tears down every attachment of the device, and the remaining
//   buffers keep an empty entry.
// Lock order: the domain's mutex first, then any lock of the device that tear_down() takes. No other lock is held while
// a thread waits for a domain's mutex. tear_down() must not drop a Buffer.
#pragma once

#include <dmaflow/buffer.hpp>

#include <cstddef>
#include <memory>
#include <mutex>

namespace dmaflow {

/// Base of imported forms. tear_down() is called exactly once.
class Attachment {
 public:
  Attachment() = default;
  Attachment(const Attachment&) = delete;
  Attachment& operator=(const Attachment&) = delete;
  virtual ~Attachment() = default;

  /// Ends the import (RmFB, vkDestroyImage). Called once, with the domain's mutex held, from any thread.
  virtual void tear_down() noexcept = 0;
};

/// One device's side: all its attachments. Held by shared_ptr, by the device and by every buffer it attached to.
/// All members may be called from any thread.
class AttachmentDomain {
 public:
  [[nodiscard]] static std::shared_ptr<AttachmentDomain> create();
  AttachmentDomain(const AttachmentDomain&) = delete;
  AttachmentDomain& operator=(const AttachmentDomain&) = delete;
  ~AttachmentDomain();

  /// Tears down every attachment and accepts no new ones. A device calls it in its destructor; a program that adopted a
  /// device has the adopting object call it before the device's owner destroys it. Calling it again does nothing.
  void detach() noexcept;

  /// The number of live attachments.
  [[nodiscard]] std::size_t size() const noexcept;

  struct Node;

 private:
  friend class Buffer;
  friend struct Buffer::Impl;
  AttachmentDomain() = default;

  mutable std::mutex mutex_;
  bool detached_ = false;
  std::size_t size_ = 0;
  Node* nodes_ = nullptr;  // intrusive list of live attachments; the nodes are owned by their buffers
};

/// The attachment of @p domain on @p buffer as the type its device made, or nullptr.
template <typename T>
[[nodiscard]] T* attachment_as(const Buffer& buffer, const AttachmentDomain& domain) noexcept {
  return static_cast<T*>(buffer.attachment(domain));
}

}  // namespace dmaflow
