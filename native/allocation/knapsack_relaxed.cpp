// What is known of all capacities, and the linear relaxation for one: groups in order, steps along their hulls, bounds.
#include <algorithm>
#include <limits>
#include <numeric>

#include "allocation/knapsack.hpp"

namespace dyadiq {

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

}  // namespace

Knapsack::Knapsack(
    std::span<const std::int64_t> offsets, std::span<const std::int64_t> cost, std::span<const double> loss) {
    groups_.resize(offsets.size() - 1);
    for (std::size_t g = 0; g + 1 < offsets.size(); ++g) {
        const auto begin = static_cast<std::size_t>(offsets[g]), n = static_cast<std::size_t>(offsets[g + 1]) - begin;
        std::vector<std::int32_t> order(n);
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
            const auto ia = begin + static_cast<std::size_t>(a), ib = begin + static_cast<std::size_t>(b);
            return cost[ia] != cost[ib] ? cost[ia] < cost[ib] : loss[ia] != loss[ib] ? loss[ia] < loss[ib] : a < b;
        });
        Group& group = groups_[g];
        for (const std::int32_t o : order) {
            const auto at = begin + static_cast<std::size_t>(o);
            if (group.index.empty() || loss[at] < group.loss.back()) {
                group.index.push_back(o);
                group.cost.push_back(cost[at]);
                group.loss.push_back(loss[at]);
            }
        }
        cheapest_ += group.cost.front();
        double previous = kInf;
        for (std::size_t at = 0; at + 1 < group.index.size();) {
            double best = -kInf;
            std::size_t to = at;
            for (std::size_t o = at + 1; o < group.index.size(); ++o) {
                const double saving = (group.loss[at] - group.loss[o]) / static_cast<double>(group.cost[o] - group.cost[at]);
                if (saving >= best) {
                    best = saving;
                    to = o;
                }
            }
            // Savings fall along a hull; rounding must not let one rise and put the steps of a group out of order.
            previous = std::min(previous, best);
            steps_.push_back(
                {previous, static_cast<std::int32_t>(g), static_cast<std::int32_t>(to), group.cost[to] - group.cost[at]});
            at = to;
        }
    }
    std::stable_sort(steps_.begin(), steps_.end(), [](const Step& a, const Step& b) { return a.saving > b.saving; });
}

std::vector<std::vector<std::int32_t>> Knapsack::corners(std::int64_t most) const {
    // Steps of equal saving are one edge of the hull: only its far end is a corner.
    std::vector<std::size_t> ends{0};
    for (std::size_t i = 0; i < steps_.size(); ++i) {
        if (i + 1 == steps_.size() || steps_[i + 1].saving != steps_[i].saving) {
            ends.push_back(i + 1);
        }
    }
    if (static_cast<std::int64_t>(ends.size()) > most) {
        std::vector<std::size_t> thinned;
        const auto last = ends.size() - 1, parts = static_cast<std::size_t>(most) - 1;
        for (std::size_t i = 0; i <= parts; ++i) {
            thinned.push_back(ends[i * last / parts]);
        }
        ends.swap(thinned);
    }
    std::vector<std::int32_t> now;
    for (const Group& group : groups_) {
        now.push_back(group.index.front());
    }
    std::vector<std::vector<std::int32_t>> found;
    std::size_t done = 0;
    for (const std::size_t end : ends) {
        for (; done < end; ++done) {
            const auto g = static_cast<std::size_t>(steps_[done].group);
            now[g] = groups_[g].index[static_cast<std::size_t>(steps_[done].position)];
        }
        found.push_back(now);
    }
    return found;
}

Knapsack::Relaxed Knapsack::relax(std::int64_t capacity, const Fixed& fixed) const {
    Relaxed out;
    out.positions.assign(groups_.size(), 0);
    out.held.assign(groups_.size(), false);
    out.room = capacity - cheapest_;
    for (const auto& [group, position] : fixed) {
        const auto g = static_cast<std::size_t>(group), at = static_cast<std::size_t>(position);
        out.positions[g] = position;
        out.held[g] = true;
        out.room -= groups_[g].cost[at] - groups_[g].cost.front();
    }
    if (out.room < 0) {
        return out;
    }
    for (; out.broken < steps_.size(); ++out.broken) {
        const Step& step = steps_[out.broken];
        const auto g = static_cast<std::size_t>(step.group);
        if (out.held[g]) {
            continue;
        }
        if (step.cost > out.room) {
            out.multiplier = step.saving;
            break;
        }
        out.positions[g] = step.position;
        out.room -= step.cost;
    }
    for (std::size_t g = 0; g < groups_.size(); ++g) {
        out.spread += groups_[g].loss[static_cast<std::size_t>(out.positions[g])] - groups_[g].loss.back();
    }
    return out;
}

double Knapsack::bound(std::int64_t capacity, const Fixed& fixed) const {
    const Relaxed start = relax(capacity, fixed);
    if (start.room < 0) {
        return kInf;
    }
    const double most = start.multiplier * static_cast<double>(start.room);
    return start.spread - most - kBranchMargin * (start.spread + most);
}

}  // namespace dyadiq
