// The matrix's rows and columns: one interface for all allocators, and one for all users of buffers.
#pragma once

#include "probe_matrix.hpp"

#include <dmaflow/buffer.hpp>
#include <dmaflow/device.hpp>

#include <memory>
#include <string>
#include <vector>

/// Makes buffers: a row.
class Maker {
 public:
  explicit Maker(Party who) : party(std::move(who)) {}
  virtual ~Maker() = default;
  Maker(const Maker&) = delete;
  Maker& operator=(const Maker&) = delete;

  /// False if it is known not to make this format. True is no promise.
  [[nodiscard]] virtual bool makes(dmaflow::PixelFormat format) = 0;
  /// Makes @p count equal buffers for such a stream, with one of the modifiers. Their size may differ from the stream's
  /// if the maker's size is fixed.
  virtual dmaflow::Result<std::vector<dmaflow::Buffer>> make(const dmaflow::StreamConfig& config,
                                                             const std::vector<dmaflow::Modifier>& modifiers,
                                                             std::uint32_t count) = 0;

  const Party party;
};

/// Imports buffers: a column.
class User {
 public:
  explicit User(Party who) : party(std::move(who)) {}
  virtual ~User() = default;
  User(const User&) = delete;
  User& operator=(const User&) = delete;

  /// The formats that it reports to accept, best first.
  virtual dmaflow::Result<std::vector<dmaflow::FormatModifier>> formats() = 0;
  /// Its usual frame size.
  [[nodiscard]] virtual dmaflow::Size size() const = 0;
  /// Prepares for such buffers. The result has the strides and sizes that it wants.
  virtual dmaflow::Result<dmaflow::StreamConfig> prepare(const dmaflow::StreamConfig& config) = 0;
  /// Really imports the buffer. The result is a remark about this buffer, or empty.
  virtual dmaflow::Result<std::string> import(const dmaflow::Buffer& buffer) = 0;

  const Party party;
};

/// Every row and column of this machine. If a device exists but cannot be used, each of its cells has the reason.
struct Parties {
  std::vector<std::unique_ptr<Maker>> makers;
  std::vector<std::unique_ptr<User>> users;
};
Parties find_parties(const MatrixOptions& options, Progress& progress);
