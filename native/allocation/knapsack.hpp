// One budget, proven optimal: the multiple-choice knapsack problem over an expanding core.
//
// Used by dyadiq.allocation through bindings/module.cpp; knows no Python. The slow, obvious twin is
// src/dyadiq/allocation/brute_force.py, the portable one knapsack_numpy.py.
//
//     minimise  sum_g loss[g][x_g]   subject to   sum_g cost[g][x_g] <= capacity
//
// Sorting and hulls are done once, for any number of capacities. Per capacity:
// 1. The linear relaxation gives the multiplier lam, a choice of least loss + lam cost, and a lower bound.
// 2. Going on greedily gives an upper bound; options whose reduced cost exceeds the distance of the bounds go.
// 3. Labels (cost, loss) start from the relaxed choice, over or under the capacity, and take up one group after another,
//    those first whose changes lose least against lam. A label goes if it is dominated, or if the best rate of all
//    groups not yet taken up cannot bring it below the upper bound. No label left: the upper bound is optimal.
//
// Losses are integers within a solve (float64 differences times a power of two, 2^58 for the relaxed choice), so sums
// and comparisons are exact. Float64 is only used for bounds, with a margin.
// Sources: Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack problem"; Dyer 1984.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace dyadiq {

inline constexpr double kMargin = 0x1p-42;            // of the sizes that enter a bound; float64 errors stay well inside
inline constexpr double kBranchMargin = 4 * kMargin;  // where losses of two solves meet

struct KnapsackAnswer {
    bool feasible = false;
    bool proven = true;          // false: labels ran out
    bool unconstrained = false;  // every group has its least loss
    double slack = 0.0;          // where labels were thinned: no choice has a loss more than this below the answer's
    double above = 0.0;          // loss above that of every group at its least
    double multiplier = 0.0;     // loss saved per cost at the break of the relaxation; 0 if unconstrained
    std::int64_t core = 0;       // groups that were taken up
    std::int64_t labels = 0;     // most labels alive at once
    std::int32_t widest = -1;    // the group of the core whose moves differ most in cost, and how many positions it has
    std::int32_t positions = 0;
    std::vector<std::int32_t> choice;  // option of every group, as indexed by the caller
};

class Knapsack {
public:
    // `offsets` [groups + 1] into `cost` and `loss`. Costs are >= 0 and sum to less than 2^62; losses are finite.
    Knapsack(std::span<const std::int64_t> offsets, std::span<const std::int64_t> cost, std::span<const double> loss);

    using Fixed = std::vector<std::pair<std::int32_t, std::int32_t>>;  // groups held at a position

    // More labels than `max_labels` at once: give up the least promising ones if `thin`, else stop there. Choices of a
    // loss above `cutoff` (counted like `above`) are of no use to the caller: the answer is then any feasible one.
    KnapsackAnswer solve(
        std::int64_t capacity, std::int64_t max_labels, bool thin, const Fixed& fixed, double cutoff) const;

    // No choice has a loss (counted like `above`) below this; infinite if nothing fits.
    double bound(std::int64_t capacity, const Fixed& fixed) const;

    // Choices on the lower convex hull of (cost, loss), cheapest first: all, or `most` (at least 2) evenly chosen ones.
    std::vector<std::vector<std::int32_t>> corners(std::int64_t most) const;

private:
    struct Group {
        std::vector<std::int32_t> index;  // undominated options: cost strictly rises, loss strictly falls
        std::vector<std::int64_t> cost;
        std::vector<double> loss;
    };
    struct Step {
        double saving;  // loss saved per cost
        std::int32_t group;
        std::int32_t position;  // that it leads to
        std::int64_t cost;
    };

    struct Relaxed {
        std::vector<std::int32_t> positions;
        std::vector<bool> held;
        std::int64_t room = 0;    // left of the capacity; negative: nothing fits
        std::size_t broken = 0;   // first step that does not fit
        double multiplier = 0.0;  // its saving
        double spread = 0.0;      // loss above that of every group at its least
    };

    Relaxed relax(std::int64_t capacity, const Fixed& fixed) const;

    std::vector<Group> groups_;
    std::vector<Step> steps_;           // most saving first
    std::int64_t cheapest_ = 0;
};

}  // namespace dyadiq
