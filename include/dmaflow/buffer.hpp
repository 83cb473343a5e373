// Buffer: dma-bufs with one immutable layout, and the imported forms attached to them.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/fd.hpp>
#include <dmaflow/layout.hpp>

#include <compare>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

namespace dmaflow {

class Attachment;
class AttachmentDomain;

/// Identifies the dma-buf of a descriptor by its inode. Valid only while the dma-buf is held; a descriptor number
/// identifies nothing, because numbers are reused. Equal ids are the same dma-buf. Different ids do not prove different
/// memory: exporting a V4L2 buffer twice gives two dma-bufs.
struct ObjectId {
  std::uint64_t device = 0;  ///< a dev_t
  std::uint64_t inode = 0;   ///< an ino_t, which is narrower in some 32-bit programs
  friend auto operator<=>(const ObjectId&, const ObjectId&) = default;
};

/// A frame's memory: one to four dma-bufs and the layout of the planes in them. A handle: copying it is cheap and
/// shares the buffer; the last copy closes the descriptors and tears down what devices imported. Copies may be used
/// from several threads; one handle object is not synchronised.
class Buffer {
 public:
  struct Options {
    bool is_protected = false;  ///< the CPU may not map it
    const char* origin = "";    ///< who allocated it, for reports; static storage
  };

  /// An empty handle: no buffer. A moved-from handle is empty too. Every call on it is safe: it has an empty layout, no
  /// objects, no attachments and the origin "".
  Buffer() = default;

  /// Takes @p objects, in the order the layout's planes name them. Two descriptors of one dma-buf become one object,
  /// and the planes are renumbered. On an error the caller still owns every descriptor. Errors: EINVAL (none or more
  /// than four; not a dma-buf; the layout does not fit its dma-bufs), EBADF.
  [[nodiscard]] static Result<Buffer> create(const Layout& layout, std::span<Fd> objects, const Options& options);
  [[nodiscard]] static Result<Buffer> create(const Layout& layout, std::span<Fd> objects);
  /// One object.
  [[nodiscard]] static Result<Buffer> create(const Layout& layout, Fd& object, const Options& options);

  explicit operator bool() const noexcept { return impl_ != nullptr; }
  [[nodiscard]] const Layout& layout() const noexcept;
  /// Distinct dma-bufs.
  [[nodiscard]] std::uint32_t object_count() const noexcept;
  /// Their descriptors; owned by the buffer.
  [[nodiscard]] std::span<const Fd> objects() const noexcept;
  /// The descriptor of an object; owned by the buffer. Dup it to pass it on. -1 if there is no such object.
  [[nodiscard]] int fd(std::uint32_t object) const noexcept;
  /// All zero if there is no such object.
  [[nodiscard]] ObjectId id(std::uint32_t object) const noexcept;
  /// Bytes of an object, as the kernel reports them; 0 if there is no such object.
  [[nodiscard]] std::uint64_t size(std::uint32_t object) const noexcept;
  [[nodiscard]] bool is_protected() const noexcept;
  [[nodiscard]] std::string_view origin() const noexcept;

  /// The attachment of @p domain's device, or nullptr. No system call, no lock, no hash: a search through the few
  /// devices.
  [[nodiscard]] Attachment* attachment(const AttachmentDomain& domain) const noexcept;
  /// Attaches an imported form to the buffer and to its device. If the domain has an attachment here already, that one
  /// is kept and returned, and the new one is torn down. Errors, after which the new one is torn down: ENODEV (the
  /// domain was detached), EINVAL (this handle is empty).
  Result<Attachment*> attach(const std::shared_ptr<AttachmentDomain>& domain,
                             std::unique_ptr<Attachment> attachment) const;

  /// The same buffer, not merely equal.
  friend bool operator==(const Buffer& a, const Buffer& b) noexcept { return a.impl_ == b.impl_; }

  struct Impl;

 private:
  explicit Buffer(std::shared_ptr<const Impl> impl) noexcept : impl_(std::move(impl)) {}
  [[nodiscard]] bool has(std::uint32_t object) const noexcept;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace dmaflow
