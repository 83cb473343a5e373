// The state of the display before our first commit, saved so that it can be restored.
#pragma once

#include "atomic.hpp"
#include "objects.hpp"

#include <cstdint>
#include <vector>

namespace dmaflow::kms {

/// The mutable state of some CRTCs, connectors and planes. Blobs (modes, colour tables) are kept as copies, because the
/// originals belong to whoever set them.
class SavedState {
 public:
  /// Reads everything that turning on @p crtc and @p connector may change. Errors: those of the ioctls.
  [[nodiscard]] static Result<SavedState> take(DrmFile& file, const Objects& objects, const CrtcObject& crtc,
                                               const ConnectorObject& connector);
  /// The request that restores it or, with @p off, turns the outputs off: for use if the previous contents are
  /// gone because their program has ended. @p used: planes that frames were shown on. Has room for one more property.
  [[nodiscard]] AtomicRequest& request(const std::vector<std::uint32_t>& used, bool off) noexcept;

 private:
  struct Value {
    std::uint32_t object = 0;
    std::uint32_t property = 0;
    std::uint64_t value = 0;
    std::uint64_t off = 0;  // its value if the output is turned off
    bool is_plane = false;
    bool was_on = false;  // of a plane: it showed something
  };
  explicit SavedState(DrmFile& file) : file_(&file) {}
  [[nodiscard]] Result<void> save(std::uint32_t object, std::uint32_t type);

  DrmFile* file_;
  std::vector<Value> values_;
  std::vector<Blob> blobs_;
  AtomicRequest request_;
};

}  // namespace dmaflow::kms
